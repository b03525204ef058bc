"""The upload of one file in two steps: `prepare` sends its bytes invisibly, `commit` makes them the object.

If the file is rewritten while it is read (Spoiled), nothing of it becomes visible.
"""

import os
import shutil
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import NotBegun, NotCopied
from kelpie_worker.s3.objects import UNKNOWN, ObjectState, Part, SourceRange, Stored, Target
from kelpie_worker.transfer.compression import gzipped
from kelpie_worker.transfer.content_types import content_type
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE, copied_parts, part_size
from kelpie_worker.transfer.upload_buffer import BufferedFile, UploadBuffer
from kelpie_worker.workspace.file_version import NoCopy, PinnedFile, Signature, nameless

_PARTS_AT_ONCE = 4
_ROOM_LEFT = 16 * 1024 * 1024


class Prepared(Protocol):
    """A file whose bytes are being sent, or buffered until its commit."""

    size: int  # of the file, in bytes
    sent: int  # bytes of the object: fewer than the file's where it is compressed
    read: int  # bytes of the file that were sent for it: fewer where storage copied its beginning
    tail: bytes  # the last bytes of the file
    digest: bytes  # of the file, see `PinnedFile.digest`

    def ready(self) -> None:
        """Wait until every byte is sent. Raises the storage's errors, Cancelled."""

    def commit(self, over: ObjectState = UNKNOWN) -> Stored:
        """Make the object visible, replacing `over`. Raises the storage's errors, Changed, Cancelled."""

    def abort(self) -> None:
        """Discard the upload. Does nothing after a commit."""


@dataclass(frozen=True)
class Beginning:
    """What the bucket has of a file that has grown since: its first `size` bytes, as the object with this ETag."""

    etag: str
    size: int
    digest: bytes | None  # of these bytes, as they were sent; None: they were downloaded


class Rewritten(NotCopied):
    """A file that became longer does not begin with what was sent of it."""


class Transfer:
    """Prepares uploads for one attempt, with a bounded number of parts in memory."""

    def __init__(self, storage: Storage, compression: bool, parts_at_once: int = _PARTS_AT_ONCE) -> None:
        self.storage = storage
        self.compression = compression
        self._pool = ThreadPoolExecutor(parts_at_once, thread_name_prefix="parts")
        self._room = threading.BoundedSemaphore(parts_at_once)
        self._open: weakref.WeakSet[_MultipartUpload] = weakref.WeakSet()
        self._upload_buffer = UploadBuffer()

    def slower(self) -> "Transfer":
        """Another one to the same storage, which sends one part at a time and leaves the line to this one."""
        return Transfer(self.storage, self.compression, parts_at_once=1)

    def key_in(self, prefix: str, path: str) -> str:
        """The key of the object that a file with this path becomes."""
        return f"{prefix}{path}.gz" if self.compression else prefix + path

    def target(self, bucket: str, prefix: str, path: str) -> Target:
        """Where a file goes, with the content type of its name, whether or not it is compressed on its way."""
        encoding = "gzip" if self.compression else None
        return Target(bucket, self.key_in(prefix, path), content_type(path), encoding)

    def prepare(self, path: str, version: Signature, target: Target, may_have_grown: bool = False) -> Prepared:
        """Read that version of a file and send what need not wait for the commit. Raises Spoiled, OSError.

        With `may_have_grown` the file may be longer by now, and its beginning counts as that version.
        """
        with PinnedFile.of(path, version, may_have_grown) as file:
            return self._prepared(file, str(Path(path).parent), target)

    def may_copy(self, bucket: str, size: int) -> bool:
        """Whether storage is likely to copy the first `size` bytes of a file that has grown."""
        return not self.compression and size >= WHOLE_SIZE and self.storage.copies_parts(bucket)

    def prepare_growth(
        self, path: str, version: Signature, target: Target, beginning: Beginning, copied: bool
    ) -> Prepared:
        """The same for a file that has grown, and may grow on: what was sent of it is read, and compared.

        With `copied` storage copies that, and only the rest is sent. Raises NotCopied, Rewritten, and what
        `prepare` does.
        """
        lengths = copied_parts(beginning.size, version.size) if copied else []
        if copied and not lengths:
            raise NotCopied(f"what the bucket has of {target.key} is no part for a copy")
        with PinnedFile.of(path, version, may_have_grown=True) as file:
            digests = file.skip(lengths)
            if beginning.digest not in (None, file.digest_of_first(beginning.size)):
                raise Rewritten(f"{path} does not begin with what was sent of it")
            sources = _ranges(beginning.etag, lengths, digests)
            return self._prepared(file, str(Path(path).parent), target, sources, beginning.digest is not None)

    def prepare_copy(self, path: str, version: Signature, target: Target) -> Prepared:
        """The same from a copy, which is made at the speed of the disk. Raises Spoiled, NoCopy, OSError.

        It lies beside the file and has no name: no scan finds it, and nothing of it outlives the process.
        """
        folder = str(Path(path).parent)
        with PinnedFile.of(path, version) as file, nameless(folder) as copy:
            if shutil.disk_usage(folder).free < 2 * file.size + _ROOM_LEFT:
                raise NoCopy("its disk is left to the command, which may write as much again meanwhile")
            try:
                file.copy_to(copy)
            except OSError as error:
                raise NoCopy(str(error)) from error
            with PinnedFile(os.dup(copy.fileno()), path) as copied:
                return self._prepared(copied, folder, target)

    def prepare_pinned(self, file: PinnedFile, path: str, target: Target) -> Prepared:
        """The same of a version that was opened before, also where another file has taken its place since.

        Raises Spoiled, OSError.
        """
        return self._prepared(file, str(Path(path).parent), target)

    def may_begin(self, target: Target) -> bool:
        """Whether the bucket accepts an upload there; tried with one that is aborted at once.

        Raises the storage's errors, Cancelled.
        """
        try:
            self.storage.abort(target, self.storage.begin(target))
        except NotBegun:
            return False
        return True

    def _prepared(
        self,
        file: PinnedFile,
        folder: str,
        target: Target,
        sources: Sequence[SourceRange] = (),
        are_known: bool = False,
    ) -> Prepared:
        small = self._whole(file, folder, target) if file.size <= WHOLE_SIZE else None
        upload = small or self._in_parts(file, target, sources, are_known)
        upload.tail, upload.digest = file.tail, file.digest
        return upload

    def _whole(self, file: PinnedFile, folder: str, target: Target) -> Prepared | None:
        """The upload of a small file; None if the buffer has no room for it."""
        body = b"".join(self._stream(file, max(1, file.size)))
        file.verify()
        buffered = self._upload_buffer.keep(body, folder)
        return _WholeUpload(self.storage, target, len(body), buffered) if buffered else None

    def _in_parts(
        self,
        file: PinnedFile,
        target: Target,
        sources: Sequence[SourceRange],
        are_known: bool,
    ) -> "_MultipartUpload":
        """The upload of a large file, of which storage copies the `sources`."""
        upload = _MultipartUpload(self.storage, target, file.size)
        self._open.add(upload)
        try:
            upload.copy(sources, are_known, self._pool)
            for body in self._stream(file, part_size(file.size)):
                upload.send(body, self._pool, self._room)
            file.verify()
        except BaseException:
            upload.abort()
            raise
        return upload

    def _stream(self, file: PinnedFile, block: int) -> Iterator[bytes]:
        blocks = file.blocks(block)
        return gzipped(blocks, block) if self.compression else blocks

    def close(self) -> None:
        """Abort every upload that is not committed. For an attempt that was cancelled; may be called twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for upload in list(self._open):
            upload.abort()


def _ranges(etag: str, lengths: Sequence[int], digests: Sequence[bytes]) -> list[SourceRange]:
    starts = accumulate(lengths, initial=0)
    return [SourceRange(etag, *range_) for range_ in zip(starts, lengths, digests, strict=False)]


class _WholeUpload:
    """A small file, which is buffered and sent by its commit."""

    tail = digest = b""

    def __init__(self, storage: Storage, target: Target, size: int, buffered: BufferedFile) -> None:
        self.size = self.sent = self.read = size
        self._storage = storage
        self._target = target
        self._buffered: BufferedFile | None = buffered

    def ready(self) -> None:
        pass

    def commit(self, over: ObjectState = UNKNOWN) -> Stored:
        assert self._buffered
        stored = self._storage.put(self._target, self._buffered.read(), over)
        self.abort()
        return stored

    def abort(self) -> None:
        if self._buffered:
            self._buffered.release()
        self._buffered = None


class _MultipartUpload:
    """A multipart upload: its parts are sent in the background, invisible until the commit."""

    tail = digest = b""

    def __init__(self, storage: Storage, target: Target, size: int) -> None:
        self.size = self.read = size
        self._storage = storage
        self._target = target
        self.sent = 0
        self._id: str | None = storage.begin(target)
        self._parts: list[Future[Part]] = []
        self._error: BaseException | None = None

    def copy(self, sources: Sequence[SourceRange], are_known: bool, pool: ThreadPoolExecutor) -> None:
        """Have storage copy the first parts, and wait for that: nothing is sent in vain. Raises NotCopied."""
        assert self._id is not None
        for number, source in enumerate(sources, start=1):
            part = pool.submit(self._storage.copy_part, self._target, self._id, number, source, are_known)
            self._parts.append(part)
            self.sent += source.length
            self.read -= source.length
        self.ready()

    def send(self, body: bytes, pool: ThreadPoolExecutor, room: threading.Semaphore) -> None:
        """Queue the next part, once there is room in memory for it."""
        assert self._id is not None
        if self._error:
            raise self._error
        room.acquire()
        try:
            number = len(self._parts) + 1
            part = pool.submit(self._storage.send_part, self._target, self._id, number, body)
        except RuntimeError:  # the pool is closed: the attempt is over
            room.release()
            raise
        part.add_done_callback(lambda done: self._sent_part(done, room))
        self._parts.append(part)
        self.sent += len(body)

    def _sent_part(self, part: Future[Part], room: threading.Semaphore) -> None:
        room.release()
        if not part.cancelled():
            self._error = self._error or part.exception()

    def ready(self) -> None:
        for part in self._parts:
            part.result()

    def commit(self, over: ObjectState = UNKNOWN) -> Stored:
        assert self._id is not None
        parts = [part.result() for part in self._parts]
        stored = self._storage.complete(self._target, self._id, parts, self.sent, over)
        self._id = None
        return stored

    def abort(self) -> None:
        if self._id is None:
            return
        upload_id, self._id = self._id, None
        running = [part for part in self._parts if not part.cancel() and not part.done()]
        self._storage.abort(self._target, upload_id)
        if running:  # a part that arrives after the abort stays in the bucket, unless the upload is aborted again
            threading.Thread(target=self._abort_again, args=(upload_id, running), daemon=True).start()

    def _abort_again(self, upload_id: str, running: list[Future[Part]]) -> None:
        wait(running)
        self._storage.abort(self._target, upload_id)
