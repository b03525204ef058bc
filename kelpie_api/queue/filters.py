"""Which jobs are meant: the filters of listings, counts and changes of many, as the database searches by them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from kelpie_api.auth.caller import Caller
from kelpie_api.db import SQL, Database
from kelpie_api.errors import InvalidRequest
from kelpie_api.queue.states import Status

OPEN = (Status.PENDING, Status.RUNNING)
FINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELED)
NO_SWEEP = "none"
END_OF_ID = re.compile("[0-9a-f-]{6,36}")


@dataclass(frozen=True)
class Filters:
    """What a job must be to be meant; None and empty: anything. All that are given must hold.

    `name` may end in `*`: then it is the beginning of names. `labels` are pairs of key and value, `sweep` an id or
    `none`. `reference` is an id, a name, or the end of an id.
    """

    status: str | None = None
    container_group_id: str | None = None
    user_id: UUID | None = None
    name: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    sweep: str | None = None
    phases: Sequence[str] = ()
    since: datetime | None = None
    ended_since: datetime | None = None
    is_open: bool | None = None
    ids: Sequence[UUID] | None = None
    reference: str | None = None
    changed_since: datetime | None = None
    exact_name: str | None = None  # what a reference meant

    @property
    def plain(self) -> bool:
        """Whether it says no more than a page of jobs without a search can answer: a status and a group."""
        return self == Filters(self.status, self.container_group_id)

    @property
    def any(self) -> bool:
        return self != Filters()

    @property
    def statuses(self) -> list[str] | None:
        """The statuses of the jobs that are meant; None: all."""
        if self.is_open is None:
            return [self.status] if self.status else None
        allowed = OPEN if self.is_open else FINAL
        return [status for status in allowed if self.status in (None, status)]

    def only(self, *, is_open: bool) -> Filters | None:
        """The same, of open or of final jobs only; None if there can be none."""
        if self.is_open is (not is_open) or (is_open and self.ended_since):
            return None
        return replace(self, is_open=is_open)

    def resolved(self, db: Database, caller: Caller) -> Filters:
        """The same with what its reference means in place of it. Raises InvalidRequest if that is several ids."""
        if self.reference is None:
            return self
        found = db.one_or_none(SQL.jobs_called, **caller.scope, **_as_parameters(self.reference))
        ids: list[UUID] = found["ids"] if found else []
        if found and found["is_name"]:
            if self.name and not _fits(self.name, self.reference):
                return replace(self, reference=None, ids=[])
            return replace(self, reference=None, name=None, exact_name=self.reference)
        if len(ids) > 1:
            sentence = f"{len(ids)} ids or more end in {self.reference}; give more digits of the one you mean."
            raise InvalidRequest(sentence, {"ref": [sentence, *(str(one) for one in ids)]})
        return replace(self, reference=None, ids=[one for one in ids if self.ids is None or one in self.ids])

    def wanted(self) -> dict[str, Any]:
        """What the function matching_jobs takes."""
        beginning = self.name[:-1] if self.name and self.name.endswith("*") else None
        found: Mapping[str, Any] = {
            "user_id": self.user_id and str(self.user_id),
            "ids": None if self.ids is None else [str(one) for one in self.ids],
            "sweep": self.sweep,
            "labels": [{key: value} for key, value in self.labels] or None,
            "name": self.exact_name or (self.name if beginning is None else None),
            "name_prefix": beginning,
            "phases": list(self.phases) or None,
            "statuses": self.statuses,
            "container_group": self.container_group_id,
            "since": self.since and self.since.isoformat(),
            "ended_since": self.ended_since and self.ended_since.isoformat(),
            "changed_since": self.changed_since and self.changed_since.isoformat(),
        }
        return {name: value for name, value in found.items() if value is not None}


def _fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _as_parameters(reference: str) -> dict[str, Any]:
    """A reference as the parameters of jobs_called; an id may be written in capitals or without its dashes."""
    try:
        the_id = UUID(reference) if len(reference) >= 32 else None
    except ValueError:
        the_id = None
    ending = reference.lower()
    return {"word": reference, "the_id": the_id, "ending": ending if END_OF_ID.fullmatch(ending) else None}
