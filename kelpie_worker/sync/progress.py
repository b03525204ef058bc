"""Which transfers of a job are under way."""

from __future__ import annotations

from collections.abc import Iterable

from kelpie_worker.messages import Transferring


class TransfersUnderWay:
    """The local paths that are being transferred, for the state file."""

    def __init__(self, claim_id: str) -> None:
        self._told = self._now = Transferring(claim_id)

    def uploads(self, paths: Iterable[str]) -> None:
        self._now = Transferring(self._now.claim_id, tuple(sorted(paths)), self._now.downloads)

    def downloads(self, paths: Iterable[str]) -> None:
        self._now = Transferring(self._now.claim_id, self._now.uploads, tuple(sorted(paths)))

    def changed(self) -> Transferring | None:
        """What is being transferred, if it changed since the last call; else None."""
        if self._now == self._told:
            return None
        self._told = self._now
        return self._told
