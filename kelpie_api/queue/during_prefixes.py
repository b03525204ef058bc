"""Where jobs keep what they upload while they run, and which jobs of a submission share such a place with another.

A place is `bucket/prefix/`. Two jobs share one where it is the same, or a folder in that of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

MOST_COMPARED = 10  # places of one job; few have more than three


@dataclass(frozen=True)
class SharedPlace:
    """A field of a submitted job, and the open job that keeps its checkpoints in `place`."""

    field: str
    job_id: UUID
    place: str


def places(job: Mapping[str, Any]) -> dict[str, str]:
    """The places of a job, each with the path of the field that names it."""
    found: dict[str, str] = {}
    for number, block in enumerate((job["sync"] or {}).get("during", ())):
        found.setdefault(f"{block['bucket']}/{block['prefix']}", f"sync.during.{number}.prefix")
        if len(found) == MOST_COMPARED:
            break
    if job.get("checkpoint_bucket"):
        found[f"{job['checkpoint_bucket']}/{job['checkpoint_prefix']}"] = "checkpoint_prefix"
    return found


def shared_places(submitted: Sequence[Mapping[str, Any]]) -> list[list[SharedPlace]]:
    """For each job of one submission what it shares with others of it, and with jobs that were open before.

    The latter the database found; they stand in `shared`, as [place, job, its place].
    """
    named = [places(job) for job in submitted]
    found = [
        {place: (UUID(other), its_place) for place, other, its_place in job.get("shared") or ()}
        for job in submitted
    ]
    for (mine, my_place), (other, its_place) in _shared_within(named):
        found[mine].setdefault(my_place, (submitted[other]["id"], its_place))
    return [
        [SharedPlace(fields[place], *other) for place, other in shared.items() if place in fields]
        for fields, shared in zip(named, found, strict=True)
    ]


def _shared_within(
    named: Sequence[Mapping[str, str]],
) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    """Pairs of (number of a job, its place) that share it, in both directions. In the order of the alphabet what
    lies in a folder follows it at once, so each place is compared with few."""
    around: list[tuple[str, int]] = []  # the folders that the next place may lie in, the innermost last
    for place, job in sorted((place, job) for job, fields in enumerate(named) for place in fields):
        while around and not place.startswith(around[-1][0]):
            around.pop()
        if other := next((folder for folder in reversed(around) if folder[1] != job), None):
            yield (job, place), (other[1], other[0])
            yield (other[1], other[0]), (job, place)
        around.append((place, job))
