"""Files that the bucket refuses while it takes others: a key that it does not like, or may not be written."""

import time
from collections.abc import Collection, Mapping

from kelpie_worker import logs
from kelpie_worker.backoff import backoff
from kelpie_worker.job import Job
from kelpie_worker.storage_errors import StorageRefused

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Refusals:
    """Each is tried again, for what is refused may be permitted later; ever more rarely, and alone."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._times: dict[str, int] = {}  # refused, by path
        self._next: dict[str, float] = {}  # when to try again, by the monotonic clock

    def note(self, refused: Mapping[str, StorageRefused]) -> None:
        for path in refused.keys() - self._times.keys():
            logs.warn("checkpoint_file_refused", self._job, path=path, detail=str(refused[path]))
        self._put_off(refused)

    def note_again(self, paths: Collection[str]) -> None:
        """All that was tried was refused: that says nothing of those that were not known."""
        self._put_off([path for path in paths if path in self._times])

    def _put_off(self, paths: Collection[str]) -> None:
        for path in paths:
            self._times[path] = self._times.get(path, 0) + 1
            self._next[path] = time.monotonic() + backoff(self._times[path], _FIRST_PAUSE, _LONGEST_PAUSE)

    def forget_all_but(self, paths: Collection[str]) -> None:
        for path in [path for path in self._times if path not in paths]:
            del self._times[path], self._next[path]

    @property
    def known(self) -> set[str]:
        return set(self._times)

    @property
    def resting(self) -> set[str]:
        """Those whose next try is not due."""
        now = time.monotonic()
        return {path for path, when in self._next.items() if now < when}
