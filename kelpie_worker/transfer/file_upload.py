"""The upload of one file in two steps: `prepare` sends its bytes invisibly, `commit` makes them the object.

If the file is rewritten while it is read (Spoiled), nothing of it becomes visible.
"""

import os
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import NotBegun
from kelpie_worker.s3.objects import UNKNOWN, ObjectState, Part, Stored, Target
from kelpie_worker.transfer.compression import gzipped
from kelpie_worker.transfer.content_types import content_type
from kelpie_worker.transfer.upload_buffer import BufferedFile, UploadBuffer
from kelpie_worker.workspace.file_version import NoCopy, PinnedFile, Signature, nameless

PART_SIZE = 8 * 1024 * 1024
_MOST_PARTS = 9000  # S3 allows 10,000
_PARTS_AT_ONCE = 4
_ROOM_LEFT = 16 * 1024 * 1024
WHOLE_SIZE = 5 * 1024 * 1024  # up to this a file is sent whole, when it is committed


class Prepared(Protocol):
    """A file whose bytes are being sent, or buffered until its commit."""

    size: int  # of the file, in bytes
    sent: int  # bytes of the object: fewer than the file's where it is compressed
    tail: bytes  # the last bytes of the file

    def ready(self) -> None:
        """Wait until every byte is sent. Raises the storage's errors, Cancelled."""

    def commit(self, over: ObjectState = UNKNOWN) -> Stored:
        """Make the object visible, replacing `over`. Raises the storage's errors, Changed, Cancelled."""

    def abort(self) -> None:
        """Discard the upload. Does nothing after a commit."""


class Transfer:
    """Prepares uploads for one attempt, with a bounded number of parts in memory."""

    def __init__(self, storage: Storage, compression: bool) -> None:
        self.storage = storage
        self.compression = compression
        self._pool = ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="parts")
        self._room = threading.BoundedSemaphore(_PARTS_AT_ONCE)
        self._open: weakref.WeakSet[_MultipartUpload] = weakref.WeakSet()
        self._upload_buffer = UploadBuffer()

    def key_in(self, prefix: str, path: str) -> str:
        """The key of the object that a file with this path becomes."""
        return f"{prefix}{path}.gz" if self.compression else prefix + path

    def target(self, bucket: str, prefix: str, path: str) -> Target:
        """Where a file goes, with the content type of its name, whether or not it is compressed on its way."""
        encoding = "gzip" if self.compression else None
        return Target(bucket, self.key_in(prefix, path), content_type(path), encoding)

    def prepare(self, path: str, version: Signature, target: Target) -> Prepared:
        """Read that version of a file and send what need not wait for the commit. Raises Spoiled, OSError."""
        with PinnedFile.of(path, version) as file:
            return self._prepared(file, str(Path(path).parent), target)

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

    def may_begin(self, target: Target) -> bool:
        """Whether the bucket accepts an upload there; tried with one that is aborted at once.

        Raises the storage's errors, Cancelled.
        """
        try:
            self.storage.abort(target, self.storage.begin(target))
        except NotBegun:
            return False
        return True

    def _prepared(self, file: PinnedFile, folder: str, target: Target) -> Prepared:
        small = self._whole(file, folder, target) if file.size <= WHOLE_SIZE else None
        upload = small or self._in_parts(file, target)
        upload.tail = file.tail
        return upload

    def _whole(self, file: PinnedFile, folder: str, target: Target) -> Prepared | None:
        """The upload of a small file; None if the buffer has no room for it."""
        body = b"".join(self._stream(file, max(1, file.size)))
        file.verify()
        buffered = self._upload_buffer.keep(body, folder)
        return _WholeUpload(self.storage, target, len(body), buffered) if buffered else None

    def _in_parts(self, file: PinnedFile, target: Target) -> Prepared:
        upload = _MultipartUpload(self.storage, target, file.size)
        self._open.add(upload)
        try:
            for number, body in enumerate(self._stream(file, part_size(file.size)), start=1):
                upload.send(number, body, self._pool, self._room)
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


class _WholeUpload:
    """A small file, which is buffered and sent by its commit."""

    tail = b""

    def __init__(self, storage: Storage, target: Target, size: int, buffered: BufferedFile) -> None:
        self.size = self.sent = size
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

    tail = b""

    def __init__(self, storage: Storage, target: Target, size: int) -> None:
        self.size = size
        self._storage = storage
        self._target = target
        self.sent = 0
        self._id: str | None = storage.begin(target)
        self._parts: list[Future[Part]] = []
        self._error: BaseException | None = None

    def send(self, number: int, body: bytes, pool: ThreadPoolExecutor, room: threading.Semaphore) -> None:
        """Queue a part, once there is room in memory for it."""
        assert self._id is not None
        if self._error:
            raise self._error
        room.acquire()
        try:
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


def part_size(size: int) -> int:
    """Bytes of each part of a file with that size: whole MiB, and so many that S3 allows as many parts."""
    mib = 1024 * 1024
    return max(PART_SIZE, -(-size // _MOST_PARTS // mib) * mib)
