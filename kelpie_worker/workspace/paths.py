"""Paths: which lie inside which, and the names that are Kelpie's own."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from pathlib import Path

_OWN_NAME = re.compile(r"\.kelpie-[0-9a-f]{16}~[a-z0-9_.-]*")
_MOST_LINKS = 40  # followed for one path, as the kernel does


def own_name(purpose: str, token: str | None = None) -> str:
    """A name that Kelpie itself puts beside or into a job's directories, and that nobody has by chance.

    The same token gives the same name; without one it is a name of its own.
    """
    token = token or uuid.uuid4().hex
    return f".kelpie-{hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}~{purpose}"


def is_own_name(name: str) -> bool:
    return _OWN_NAME.fullmatch(name) is not None


class Moved:
    """Directories whose contents lie elsewhere now: follows links as if they had never been moved.

    `places` are pairs of the real path a directory had, and the one that its contents have.
    """

    def __init__(self, places: tuple[tuple[str, str], ...] = ()) -> None:
        self._places = places

    def now(self, path: str) -> str:
        for was, lies in self._places:
            if is_inside(path, was):
                return os.path.normpath(Path(lies, os.path.relpath(path, was)))
        return path

    def real(self, path: str) -> str:
        """The path without links, as `realpath` said before the move. OSError for a link in a circle."""
        done, left, links = "/", path.split("/")[::-1], 0
        while left:
            name = left.pop()
            if name == "..":
                done = str(Path(done).parent)
            elif name not in ("", "."):
                step = str(Path(done, name))
                target = self._target(step)
                if target is None:
                    done = step
                    continue
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                done = "/" if target.startswith("/") else done
                left += target.split("/")[::-1]
        return done

    def _target(self, step: str) -> str | None:
        try:
            return str(Path(self.now(step)).readlink())
        except OSError:
            return None  # no link


def is_inside(path: str, directory: str) -> bool:
    """Whether a path is the directory or lies under it; both absolute and without links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")
