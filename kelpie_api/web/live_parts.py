"""The live parts of pages: each is made once for all tabs that show the same, and tabs hear when to ask again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import inf

from kelpie_api.cache import Shared
from kelpie_api.pace import Pace
from kelpie_api.serving_threads import aside

MOST_KEPT = 16 * 2**20  # bytes of all parts that a process keeps
BESIDE = 2**10  # bytes, about, that a part takes beside its content
PLACES = 8  # requests that may wait for a part, lest they take the threads of workers
PLACES_OF_ONE = 3  # of these, for one session, lest it takes them all with addresses that it makes up
REST = 4.0  # after a part, by the time that it took: parts have about a fifth of a process at most
MOST_LOOKS = 10.0  # a second, of all tabs that ask one process
MOST_LOOKS_OF_ONE = 30  # of one session, booked ahead: more than a person has tabs in sight, 3 s of all looks
LONGEST_PAUSE = 60.0  # seconds until a tab asks again, however many there are


@dataclass(frozen=True)
class Part:
    """The live part of a page, with marks where sessions differ, and a digest of all else.

    `is_last`: the page is to be loaded anew, as one that is not refreshed any more.
    """

    content: bytes
    status: int
    is_last: bool
    digest: bytes


def weight(part: Part) -> float:
    """Bytes. No last part is kept: a tab asks for it once, and it may show the values of an environment."""
    return inf if part.is_last else BESIDE + len(part.content)


def new_live_parts() -> Shared[Hashable, Part]:
    return Shared(MOST_KEPT, PLACES, REST, weigh=weight, places_of_one=PLACES_OF_ONE, aside=aside)


def new_pace_of_tabs() -> Pace:
    return Pace(MOST_LOOKS, LONGEST_PAUSE, MOST_LOOKS_OF_ONE)
