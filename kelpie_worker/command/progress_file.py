"""The file in which a command says how far it is: read without trust in what the command put in its place.

The command replaces it by a JSON object or by a number from 0 to 1.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from kelpie_worker import logs
from kelpie_worker.job import Job

_MOST_READ = 65_536  # bytes
_MOST_LOOKS = 10  # at contents that change and cannot be read, until they count as rubbish


class ProgressFile:
    """`look` is called again and again, by one thread: a file system that hangs holds that one."""

    def __init__(self, path: str, job: Job) -> None:
        self._path = path
        self._job = job
        self._read: bytes | None = None  # what was there at the last look
        self._failures = 0  # looks in a row at what cannot be read
        self._warned = False

    def look(self) -> Any:
        """The document, if there is another one than at the last look; else None.

        What cannot be read may be half written, so it is looked at again. If it stays like that, the log says so
        once in an attempt.
        """
        try:
            content = _content(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error.strerror or str(error))
            return None
        if not content.strip() or (content == self._read and not self._failures):
            return None
        return self._document(content)

    def _document(self, content: bytes) -> Any:
        is_unchanged, self._read = content == self._read, content
        try:
            document = json.loads(content)
            if not isinstance(document, dict | int | float) or isinstance(document, bool):
                raise ValueError("neither an object nor a number")
        except (ValueError, RecursionError) as error:
            self._failures += 1
            if is_unchanged or self._failures >= _MOST_LOOKS:
                self._warn(f"no JSON object and no number: {error}")
            return None
        self._failures = 0
        return document

    def _warn(self, detail: str) -> None:
        if not self._warned:
            self._warned = True
            logs.warn("progress_not_read", self._job, path=self._path, detail=detail)


def _content(path: str) -> bytes:
    """The first bytes of the file. Raises OSError, also where something else is in its place.

    Without waiting, for the open of a pipe would; without following a link, which could lead anywhere.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        content = b""
        while len(content) < _MOST_READ and (block := os.read(descriptor, _MOST_READ - len(content))):
            content += block
        return content
    finally:
        os.close(descriptor)
