"""Paths: where a key lands, which paths lie inside which, and the names that Kelpie reserves."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

_OWN_NAME = re.compile(r"\.kelpie-[0-9a-f]{16}~[a-z0-9_.-]*")
_MOST_LINKS = 40  # followed for one path, like the kernel's limit

# A folder's device and inode, and a name in it. A folder may have several paths: by links, and by bind mounts.
Place = tuple[int, int, str]


def own_name(purpose: str, token: str | None = None) -> str:
    """A name for a file of Kelpie's beside or in a job's directories, which no other program uses by chance.

    The same token gives the same name; without a token every call gives another one.
    """
    token = token or uuid.uuid4().hex
    return f".kelpie-{hashlib.blake2b(token.encode(), digest_size=8).hexdigest()}~{purpose}"


def is_own_name(name: str) -> bool:
    return _OWN_NAME.fullmatch(name) is not None


class MovedDirectories:
    """Resolves paths and links as they were before directories were moved.

    `moves` are pairs of a directory's real path before the move, and the path where its contents are now.
    """

    def __init__(self, moves: tuple[tuple[str, str], ...] = ()) -> None:
        self._moves = moves

    def now(self, path: str) -> str:
        """Where the file that was at a real path is now."""
        for before, after in self._moves:
            if is_inside(path, before):
                return os.path.normpath(Path(after, os.path.relpath(path, before)))
        return path

    def real(self, path: str) -> str:
        """What `realpath` would have returned before the move. Raises OSError for links in a circle."""
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
            return None  # not a link


def is_inside(path: str, directory: str) -> bool:
    """Whether a path is the directory or lies under it. Both are absolute and without links."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def landing_path(local_path: str, relative_key: str) -> str | None:
    """The path of a key below `local_path`; None if it would be outside of it, or the key names no file.

    Leading and doubled slashes are ignored; `..` is refused even if it would lead back inside.
    """
    names = [name for name in relative_key.split("/") if name not in ("", ".")]
    if not names or ".." in names or "\0" in relative_key:
        return None
    return str(Path(local_path, *names))


def stays_inside(path: str, local_path: str) -> bool:
    """Whether a path is in the directory, links that exist there already resolved."""
    return is_inside(os.path.realpath(Path(path).parent), os.path.realpath(local_path))


def is_kelpies(path: str, local_path: str, own_places: frozenset[Place]) -> bool:
    """Whether a file at the path would be, or would lie in the place of, one of Kelpie's own.

    `own_places` are the state file with its lock and its draft; a name that only Kelpie gives counts, too.
    """
    if any(is_own_name(name) for name in Path(path).relative_to(local_path).parts):
        return True
    names = {name for _, _, name in own_places}
    places = (place for place in (Path(path), *Path(path).parents) if place.name in names)
    return any(place_of(str(place)) in own_places for place in places)


def place_of(path: str) -> Place | None:
    """The folder, whatever its path is, and the name in it; None if there is no such folder."""
    try:
        folder = Path(path).parent.stat()
    except (OSError, ValueError):
        return None
    return folder.st_dev, folder.st_ino, Path(path).name


def places_of(files: Iterable[str]) -> frozenset[Place]:
    return frozenset(place for file in files if (place := place_of(file)))


def is_or_holds(directory: str, path: str) -> bool:
    """Whether the path is the directory or lies in it. Links are resolved, and both may lie on a bind mount."""
    real = Path(os.path.realpath(path))
    try:
        status = Path(directory).stat()
    except OSError:
        return is_inside(str(real), os.path.realpath(directory))
    return any(_is_same(place, status) for place in (real, *real.parents))


def _is_same(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:
        return False
