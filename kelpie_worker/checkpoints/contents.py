"""Files that may have another content than was sent although their signature is the same: these are read again.

A signature is believed if no process had the file open for writing, or mapped, just before the version that was
sent was read, and if the kernel itself keeps the times there. A write after that has to open the file first, and
moves its times. In all other cases the digest of what was sent is compared with that of the file:

    when the version was sent, the file was     is compared while the command runs         when it has ended
    -----------------------------------------  ----------------------------------------  -----------------
    neither open for writing nor mapped         never                                     never
    open for writing                            once no process has it open any more      if it was not before
    mapped, and a flush reveals later writes    once, after a flush                       yes
    mapped, elsewhere (tmpfs)                   again and again, for 1/20 of the time     yes
    where times are rounded, or not the
    kernel's own (FAT, ext3, NFS, FUSE)         once                                      yes
    another run's, from before a reboot         never: what was sent is not known         is sent anew
"""

import threading
import time
from collections.abc import Iterable

from kelpie_worker import logs
from kelpie_worker.checkpoints.mirror import Look
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFile, TrackedFiles
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Lease
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
    ) -> None:
        self._job = job
        self._block = block
        self._files = files
        self._history = history
        self._lease = lease
        self._finishing = finishing
        self._next_at = 0.0  # seconds of the monotonic clock
        self._reveals: bool | None = None  # whether a flush does, in this directory; None: not tried

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
            if tells_writes(source, version) and (is_untouched or not rebooted):
                content.may_differ = False
            elif is_untouched:
                content.digest = digest_of(source, version, self._lease.check)

    def _is_as_brought(self, path: str, seen: Signature) -> bool:
        file = self._files[path]
        return file.sent == seen and file.uploaded is None

    def proven(self, files: Iterable[str], look: Look) -> frozenset[str]:
        """Those of the files of which every write after this call changes the signature.

        To be asked before they are read.
        """
        now = time.monotonic()
        return frozenset(path for path in files if self._is_proven(path, look, now))

    def note_sent(self, sent: Snapshot, proven: Iterable[str]) -> None:
        """What was sent of the `proven` files is what they contain, as long as their signature is the same."""
        for path in proven:
            file = self._files[path]
            if file.uploaded == sent[path] and not file.content.differs:
                file.content.may_differ = False

    def compare(self, look: Look) -> bool:
        """Read the files again that may differ and are due; returns whether one differs.

        Raises OSError, Cancelled.
        """
        due = [path for path, version in look.found.items() if self._is_due(self._files[path], version, look)]
        if not due:
            return False
        began = time.monotonic()
        try:
            found = [path for path in due if self._differs(path, look)]
        except _EndsFirst:
            return False
        took = time.monotonic() - began + (look.opened.took or 0.0)
        self._next_at = time.monotonic() + max(_SHORTEST_PAUSE, _PAUSE_FACTOR * took)
        if found:
            logs.info("content_differs", self._job, files=len(found), first=found[0])
        return bool(found)

    def _is_due(self, file: TrackedFile, version: Signature, look: Look) -> bool:
        content = file.content
        if not content.may_differ or content.differs or file.sent != version:
            return False
        if look.final:
            return True
        if content.was_compared or content.digest is None or look.now < self._next_at:
            return False
        return look.opened.is_mapped(version.file) or not look.opened.may_write(version.file)

    def _differs(self, path: str, look: Look) -> bool:
        content, version, source = self._files[path].content, look.found[path], self._source(path)
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
            content.may_differ = not self._is_proven(path, look, time.monotonic())
            content.was_compared = not is_mapped or self._flush_reveals()
        return content.differs

    def _digest(self, source: str, version: Signature, final: bool) -> bytes:
        def go_on() -> None:
            self._lease.check()
            if self._finishing.is_set() and not final:
                raise _EndsFirst

        return digest_of(source, version, go_on)

    def _is_proven(self, path: str, look: Look, now: float) -> bool:
        """Whether no process may write to the file without a change of its signature."""
        version = look.found[path]
        if look.opened.may_write(version.file):
            return False
        movement = self._files[path].movement
        rested = now - max(movement.appeared, movement.moved_at) >= TICK
        return look.final or (rested and tells_writes(self._source(path), version))

    def _flush_reveals(self) -> bool:
        if self._reveals is None:
            self._reveals = flush_reveals_writes(self._block.local_path)
        return self._reveals

    def _source(self, path: str) -> str:
        return f"{self._block.local_path}/{path}"
