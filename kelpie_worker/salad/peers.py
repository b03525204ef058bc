"""The workers on one machine, which find each other through a directory.

Each has a file there that it keeps locked until it ends, with what the others must know of it. A file that is not
locked belonged to a worker that has ended.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kelpie_worker.system.linux import boottime
from kelpie_worker.system.locks import try_lock

_PATIENCE = 2.0  # seconds; a worker that is stopped while it holds the common lock must not stop the others
_LOOK_AGAIN = 0.02
_SUFFIX = ".worker"
_LENGTH = 64  # bytes of a file


@dataclass(frozen=True)
class PeerState:
    """What a worker publishes to the others: its deletion cost, and whether it has a job in hand."""

    cost: int = 0
    holds_job: bool = False


class Peers:
    """This worker's file, and the content of the others' files. Raises OSError if the directory cannot be used."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_uid != os.getuid():
            raise PermissionError(f"{directory} belongs to another user")
        self._path, self._file = self._entered()
        self.tell(PeerState())

    def tell(self, state: PeerState) -> None:
        """Write the state. Its length never changes, so that a full disk does not prevent it."""
        os.pwrite(self._file, json.dumps(asdict(state)).ljust(_LENGTH).encode(), 0)

    def others(self) -> list[PeerState]:
        """The states of the other running workers; the files of dead workers are removed."""
        paths = sorted(self._directory.glob(f"*{_SUFFIX}"))
        seen = (_state_in(path) for path in paths if path != self._path)
        return [state for state in seen if state is not None]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A lock that all workers share, waited for _PATIENCE seconds at most.

        OSError if the directory is gone.
        """
        lock = os.open(self._directory / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = boottime() + _PATIENCE
            while not try_lock(lock) and boottime() < deadline:
                time.sleep(_LOOK_AGAIN)
            yield
        finally:
            os.close(lock)

    def leave(self) -> None:
        """Remove this worker's file, and the last worker the directory."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        with suppress(OSError):
            if not any(self._directory.glob(f"*{_SUFFIX}")):
                (self._directory / "turn").unlink(missing_ok=True)
                self._directory.rmdir()

    def _entered(self) -> tuple[Path, int]:
        while True:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            path = self._directory / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
            with suppress(FileNotFoundError):  # the last of the others has just removed the directory
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                # Between the two calls the file looked like a dead worker's, and another worker may have removed
                # it.
                if try_lock(file) and path.exists():
                    return path, file
                os.close(file)


def _state_in(path: Path) -> PeerState | None:
    """The state of a running worker; None if the worker is dead. Its file is removed then."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if try_lock(file):
            path.unlink(missing_ok=True)
            return None
        told = json.loads(os.pread(file, 4096, 0) or b"{}")
        return PeerState(int(told.get("cost", 0)), bool(told.get("holds_job", False)))
    except (OSError, ValueError, TypeError, AttributeError):
        return PeerState(holds_job=True)  # it runs and its file is not readable: its machine must not be given up
    finally:
        os.close(file)
