"""What an object of a checkpoint says of the generation that it was committed in, as metadata beside its bytes.

The manifest of a generation is reported to the coordinator once it is committed, and a worker that loses its line,
or its machine, in between cannot report it. The marks let the next attempt see from the bucket alone whether all
files of the generation are there: each object says how many they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kelpie_worker.job import Manifest, StoredObject

_GENERATION, _REMOVED = "kelpie-generation", "kelpie-removed"  # names of the metadata
_MOST_REMOVED = 100  # keys, so that their digests fit into what S3 keeps as metadata


@dataclass(frozen=True)
class Mark:
    """The generation of one object."""

    attempt: int
    block: int  # of the job's `during`, from 0
    number: int  # later generations of an attempt have higher ones, also those of an uploader that was restarted
    files: int  # that it has; 0 if the directory had more, so that it is no whole
    removed: frozenset[str] = frozenset()  # digests of the keys that are deleted once it is committed

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Names and values."""
        generation = f"{self.attempt} {self.block} {self.number} {self.files}"
        removed = ((_REMOVED, " ".join(sorted(self.removed))),) if self.removed else ()
        return ((_GENERATION, generation), *removed)


def read_mark(metadata: Mapping[str, str]) -> Mark | None:
    """The mark of an object with that metadata; None if it has none that can be read."""
    found = {name.lower(): value for name, value in metadata.items()}  # some storage changes the case
    try:
        attempt, block, number, files = (int(part) for part in found[_GENERATION].split(" "))
    except (KeyError, ValueError):
        return None
    return Mark(attempt, block, number, files, frozenset(found.get(_REMOVED, "").split()))


def removals(keys: Iterable[str]) -> frozenset[str]:
    """The keys as a mark has them; none if they are too many for it."""
    digests = frozenset(_digest(key) for key in keys)
    return digests if len(digests) <= _MOST_REMOVED else frozenset()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]


@dataclass(frozen=True)
class MarkedObject:
    """An object that is not in the newest manifest as it is in the bucket."""

    object: StoredObject
    modified: float  # seconds since 1970, by the clock of the storage
    mark: Mark | None
    was_reported: bool  # another version of it is in the newest manifest


def unreported_whole(
    reported_by: int,
    unchanged: Mapping[StoredObject, float],
    missing: Collection[str],
    others: Iterable[MarkedObject],
) -> Manifest:
    """What the checkpoint consists of, if generations that were never reported make it whole; else nothing.

    `reported_by` is the attempt that reported the newest manifest, `unchanged` what the bucket has of it as it was
    reported, with its times, `missing` the keys of it that are gone. `others` are the objects beside these.

    Whole it is if one attempt, no earlier one, has written all that differs, and if in each directory all files of
    its last generation are there: it had every file of the directory that the bucket did not have before. What
    is missing must be what the attempt was about to delete. What was never reported and has no mark of the attempt
    must be older.
    """
    others = list(others)
    last_attempt = max((other.mark.attempt for other in others if other.mark), default=-1)
    ours = {other: other.mark for other in others if other.mark and other.mark.attempt == last_attempt}
    removed = frozenset().union(*(mark.removed for mark in ours.values()))
    youngest = max([*unchanged.values(), *(other.modified for other in ours)], default=math.inf)
    is_whole = (
        last_attempt >= reported_by
        and all(other in ours or (not other.was_reported and other.modified < youngest) for other in others)
        and all(_digest(key) in removed for key in missing)
        and all(_is_complete(ours, block) for block in {mark.block for mark in ours.values()})
    )
    return (*unchanged, *(other.object for other in ours)) if is_whole else ()


def _is_complete(marked: Mapping[MarkedObject, Mark], block: int) -> bool:
    """Whether all files of the block's last generation are there, and nothing of it is younger than they are."""
    of_block = {other: mark for other, mark in marked.items() if mark.block == block}
    number = max(mark.number for mark in of_block.values())
    last = {other: mark for other, mark in of_block.items() if mark.number == number}
    youngest = max(other.modified for other in last)
    return all(mark.files == len(last) for mark in last.values()) and all(
        other.modified <= youngest for other in of_block
    )
