"""Files that may have another content than was sent although their signature is the same: these are read again.

A signature is believed if no process had the file open for writing, or mapped, just before the version that was
sent was read, and if the kernel itself moves the times there at every write. A write after that has to open the
file first, and moves its times. Not so on a tmpfs, or an overlay over one: a page that was mapped and read is
written there without a trace. In all other cases the digest of what was sent is compared with that of the file:

    when the version was sent, the file was     is compared while the command runs         when it has ended
    -----------------------------------------  ----------------------------------------  -----------------
    neither open for writing nor mapped         never                                     never
    open for writing                            once no process has it open any more      if it was not before
    mapped, and a flush reveals later writes    once, after a flush                       yes
    mapped, elsewhere (tmpfs)                   again and again, for 1/20 of the time     yes
    where times are rounded, not the kernel's
    own, or do not tell every write (FAT,
    ext3, NFS, FUSE, tmpfs)                     once                                      yes
    another run's, from before a reboot         never: what was sent is not known         is sent anew
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.checkpoints.stability import OpenFiles
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFile, TrackedFiles
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.system.open_files import FileId
from kelpie_worker.workspace.file_times import TICK, flush, flush_reveals_writes, tells_writes
from kelpie_worker.workspace.file_version import Signature, Snapshot, Spoiled, digest_of

_SHORTEST_PAUSE = 2.0  # seconds between two comparisons while the command runs
_PAUSE_FACTOR = 20  # times as long as one takes


class _EndsFirst(Exception):
    """The command ended while a content was compared. It is compared anew when its last checkpoint is sent."""


class Contents:
    """Notes in `files` which of them differ from what was sent."""

    def __init__(
        self,
        job: Job,
        block: SyncBlock,
        files: TrackedFiles,
        history: DirectoryHistory,
        lease: Lease,
        finishing: threading.Event,
        on_difference: Callable[[], None],
    ) -> None:
        """`finishing` is set once the command has ended; `on_difference` is called by any thread."""
        self._job = job
        self._block = block
        self._files = files
        self._history = history
        self._lease = lease
        self._finishing = finishing
        self._on_difference = on_difference
        self._reader: threading.Thread | None = None
        self._next_at = 0.0  # seconds of the monotonic clock
        self._reveals: dict[int, bool] = {}  # whether a flush does, by device

    def begin(self, found: Snapshot) -> None:
        """Note for which of the downloaded files the signature speaks; of the others, if untouched, the digests.

        Raises OSError, Cancelled.
        """
        brought = {path: seen for path, seen in found.items() if self._is_as_brought(path, seen)}
        if brought and self._history.is_untouched:
            time.sleep(TICK)  # so that the command's first write bears another time than the download
        for path, version in brought.items():
            content, source = self._files[path].content, self._source(path)
            is_untouched, rebooted = self._history.is_untouched, self._history.is_of_another_boot
            if self._tells_writes(source, version) and (is_untouched or not rebooted):
                content.may_differ = False
            elif is_untouched:
                with suppress(Spoiled):  # another process has it in its hands: it is sent anew in the end
                    content.digest = digest_of(source, version, self._lease.check)

    def _is_as_brought(self, path: str, seen: Signature) -> bool:
        file = self._files[path]
        return file.sent == seen and file.uploaded is None

    def proven(self, files: Iterable[str], look: Look) -> frozenset[str]:
        """Those of the files of which every write after this call changes the signature.

        To be asked before they are read.
        """
        return frozenset(path for path in files if self._is_proven(path, self._files[path], look))

    def note_sent(self, sent: Snapshot, proven: Iterable[str]) -> None:
        """What was sent of the `proven` files is what they contain, as long as their signature is the same."""
        for path in proven:
            file = self._files[path]
            if file.uploaded == sent[path] and not file.content.differs:
                file.content.may_differ = False

    def compare(self, look: Look) -> None:
        """Read the files again that may differ and are due. Raises OSError, Cancelled, but only in the end.

        While the command runs they are read in a thread of its own: no checkpoint waits for a huge file.
        """
        self._forget_reader(look.final)
        doubtful = {path: self._files[path] for path in look.found if self._is_doubtful(path, look)}
        if look.final:
            self._note_differing(doubtful, look)
        elif doubtful and self._reader is None and look.now >= self._next_at:
            self._reader = threading.Thread(
                target=self._compare_beside, args=(doubtful, look), daemon=True, name="contents"
            )
            self._reader.start()

    def wait(self) -> None:
        """Wait until nothing is read any more."""
        if self._reader:
            self._reader.join()

    def _forget_reader(self, final: bool) -> None:
        if final:  # the command has ended, so that the reader gives up
            self.wait()
        if self._reader and not self._reader.is_alive():
            self._reader = None

    def _compare_beside(self, doubtful: dict[str, TrackedFile], look: Look) -> None:
        began = time.monotonic()
        try:
            due = {
                path: file for path, file in doubtful.items() if _is_due(file, look.found[path].file, look.opened)
            }
            self._note_differing(due, look)
        except (_EndsFirst, Cancelled):
            return
        except OSError as error:  # in the end it is raised
            logs.warn("content_not_compared", self._job, detail=str(error))
        self._next_at = time.monotonic() + max(_SHORTEST_PAUSE, _PAUSE_FACTOR * (time.monotonic() - began))

    def _is_doubtful(self, path: str, look: Look) -> bool:
        file = self._files[path]
        content = file.content
        is_open = content.may_differ and not content.differs and file.sent == look.found[path]
        return is_open and (look.final or not content.was_compared)

    def _note_differing(self, files: dict[str, TrackedFile], look: Look) -> None:
        if found := [path for path, file in files.items() if self._differs(path, file, look)]:
            logs.info("content_differs", self._job, files=len(found), first=found[0])
            self._on_difference()

    def _differs(self, path: str, file: TrackedFile, look: Look) -> bool:
        content, version, source = file.content, look.found[path], self._source(path)
        is_mapped = not look.final and look.opened.is_mapped(version.file)
        try:
            if is_mapped:
                flush(source)
            content.differs = content.digest is None or content.digest != self._digest(source, version, look.final)
        except (Spoiled, FileNotFoundError):
            return False  # its signature has changed: the next look shows that
        except PermissionError:
            content.differs = True  # what hinders reading hinders sending, which says so
        if not content.differs:
            content.may_differ = not self._is_proven(path, file, look)
            content.was_compared = not is_mapped or self._flush_reveals(source, version)
        return content.differs

    def _digest(self, source: str, version: Signature, final: bool) -> bytes:
        def go_on() -> None:
            self._lease.check()
            if self._finishing.is_set() and not final:
                raise _EndsFirst

        return digest_of(source, version, go_on)

    def _is_proven(self, path: str, file: TrackedFile, look: Look) -> bool:
        """Whether no process may write to the file without a change of its signature."""
        version, movement = look.found[path], file.movement
        if look.opened.may_write(version.file):
            return False
        has_rested = time.monotonic() - max(movement.appeared, movement.moved_at) >= TICK
        return look.final or (has_rested and self._tells_writes(self._source(path), version))

    def _tells_writes(self, source: str, version: Signature) -> bool:
        return tells_writes(source, version, lambda: self._flush_reveals(source, version))

    def _flush_reveals(self, source: str, version: Signature) -> bool:
        if version.device not in self._reveals:
            self._reveals[version.device] = flush_reveals_writes(str(Path(source).parent))
        return self._reveals[version.device]

    def _source(self, path: str) -> str:
        return f"{self._block.local_path}/{path}"


def _is_due(file: TrackedFile, which: FileId, opened: OpenFiles) -> bool:
    """Whether to read a file while the command runs: not yet if it is only open, for `stat` tells more soon."""
    return file.content.digest is not None and (opened.is_mapped(which) or not opened.may_write(which))
