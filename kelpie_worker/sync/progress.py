"""Which transfers of a job are under way."""

from __future__ import annotations

from collections.abc import Iterable

from kelpie_worker.job import Job
from kelpie_worker.messages import Transferring


class TransfersUnderWay:
    """The local paths that are being transferred, for the state file: in the directories as the job names them."""

    def __init__(self, claim_id: str) -> None:
        self._told = self._now = Transferring(claim_id)
        self.job: Job | None = None  # once a command about its files came

    def uploads(self, paths: Iterable[str]) -> None:
        self._now = Transferring(self._now.claim_id, self._shown(paths), self._now.downloads)

    def downloads(self, paths: Iterable[str]) -> None:
        self._now = Transferring(self._now.claim_id, self._now.uploads, self._shown(paths))

    def _shown(self, paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(self.job.as_named(path) if self.job else path for path in paths))

    def changed(self) -> Transferring | None:
        """What is being transferred, if it changed since the last call; else None."""
        if self._now == self._told:
            return None
        self._told = self._now
        return self._told
