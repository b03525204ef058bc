"""Small files between their preparation and their commit: the first ones in memory, more of them on disk."""

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from kelpie_worker import logs
from kelpie_worker.workspace.paths import own_name

_MOST_IN_MEMORY = 16 * 1024 * 1024
_MOST_ON_DISK = 512 * 1024 * 1024


@dataclass(frozen=True)
class BufferedFile:
    """The bytes of one file, until they are released."""

    read: Callable[[], bytes]
    release: Callable[[], None]  # once


class UploadBuffer:
    """Keeps bytes, up to a limit. On disk they have no name, so that nothing of them outlives the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_memory = 0
        self._on_disk = 0
        self._end = 0
        self._file: IO[bytes] | None = None

    def keep(self, body: bytes, folder: str) -> BufferedFile | None:
        """Buffer the bytes; None if there is no room. Temporary files are created in `folder`."""
        with self._lock:
            if self._in_memory + len(body) <= _MOST_IN_MEMORY:
                self._in_memory += len(body)
                return BufferedFile(lambda: body, lambda: self._free(memory=len(body)))
            if self._end + len(body) > _MOST_ON_DISK:
                return None
            try:
                return self._write(body, folder)
            except OSError as error:
                logs.warn("no_room_on_disk_for_small_files", detail=str(error))
                return None

    def _write(self, body: bytes, folder: str) -> BufferedFile:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix=own_name("buffer-"), dir=folder)  # noqa: SIM115 - `_free`
        descriptor, offset, size = self._file.fileno(), self._end, len(body)
        if os.pwrite(descriptor, body, offset) < size:
            raise OSError("the disk took only a part")
        self._end += size
        self._on_disk += size
        return BufferedFile(lambda: os.pread(descriptor, size, offset), lambda: self._free(disk=size))

    def _free(self, memory: int = 0, disk: int = 0) -> None:
        with self._lock:
            self._in_memory -= memory
            self._on_disk -= disk
            if self._file and not self._on_disk:
                self._file.close()
                self._file, self._end = None, 0
