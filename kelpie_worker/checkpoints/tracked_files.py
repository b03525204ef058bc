"""What is known of each file of a watched directory."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.s3.errors import StorageRefused
from kelpie_worker.system.backoff import backoff
from kelpie_worker.workspace.file_version import Snapshot


@dataclass
class Ledger:
    """What is known of a directory's files and of their objects. Paths are relative."""

    sent: Snapshot = field(default_factory=dict)  # in the bucket in this version, or brought by the download
    had: set[str] = field(default_factory=set)  # seen here in this attempt, and not deleted from the bucket since
    previous: set[str] = field(default_factory=set)  # files of the generation before

    def is_settled(self, now: Snapshot) -> bool:
        """Whether nothing was written, and nothing removed, since the last generation."""
        return not self.changed(now) and set(now) == self.previous

    def changed(self, now: Snapshot) -> Snapshot:
        return {path: version for path, version in now.items() if self.sent.get(path) != version}

    def due_for_deletion(self, now: Snapshot, final: bool) -> list[str]:
        """Files the command has removed, and that neither this generation nor the one before it has.

        Only what this attempt had can be in it: absence at the start never deletes (docs/worker.md, Checkpoints).
        """
        kept = set(now) if final else set(now) | self.previous
        return sorted(self.had - kept)


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
