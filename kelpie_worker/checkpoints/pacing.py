"""When a file that only grows is sent again: a trajectory, a log, an event file. Decisions only.

Where storage copies what it has of such a file, only the rest is sent, and the file goes up with every generation.
Where it does not, or the file is too small for that, all of it is sent again: then the file is held back while the
others go up. It is sent

- while no more than twice its size is sent in all. With the last time, at the command's end, that is three times
  its final size at most, however it grows;
- beside that, after a pause in which its size would have passed at a trickle: a machine that vanishes takes no
  more of it along than that. The pause is shorter beside other files: without it they are no whole;
- at any time, if it is small, or small beside the others.

What takes long is sent beside the generations.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from kelpie_worker.checkpoints.tracked_files import TrackedFile
from kelpie_worker.transfer.part_sizes import WHOLE_SIZE

MOST_BEFORE_END = 2  # times a file's size
SMALL = 64 * 1024  # bytes of all files that would be held back
_SMALL_BESIDE = 8  # an eighth of the others' size or less
_REST = 5  # times as long as the last time took, if that was long: reading and copying cost, too
_LONG = 1.0  # seconds
LONGEST_TOGETHER = 5.0  # seconds that other files wait for one that is sent whole again


@dataclass(frozen=True)
class Trickle:
    """How often files are sent again for the sake of time."""

    rate: int  # bytes a second
    least_pause: float  # seconds

    def pause(self, size: int) -> float:
        return max(self.least_pause, size / self.rate)


ALONE = Trickle(rate=8 * 1024, least_pause=60)
BESIDE_OTHERS = Trickle(rate=64 * 1024, least_pause=30)


class Pacing:
    """Which of the files that have grown are held back, and which are sent beside the others."""

    def __init__(
        self,
        may_copy: Callable[[TrackedFile], bool],
        seconds_for: Callable[[int], float],
        under_way: Callable[[], Collection[str]],
    ) -> None:
        """`may_copy` says whether storage is likely to copy what it has of a file.

        `seconds_for` says how long it takes to send so many bytes, by what it took before. `under_way` are the
        paths of what is being sent beside the generations.
        """
        self._may_copy = may_copy
        self._seconds_for = seconds_for
        self._under_way = under_way

    def held(self, grown: Mapping[str, TrackedFile], others: Collection[int], now: float) -> frozenset[str]:
        """The paths to hold back, beside other files of these sizes that are ready to be sent."""
        aside = grown.keys() & self._under_way()
        grown = {path: file for path, file in grown.items() if path not in aside}
        waiting = {path: file for path, file in grown.items() if not self._is_affordable(file, now)}
        weight = sum(_size(file) for file in waiting.values())
        if weight <= max(SMALL, sum(others) // _SMALL_BESIDE):
            return frozenset(aside)
        pause = (BESIDE_OTHERS if others else ALONE).pause(weight)
        return frozenset(aside | {path for path, file in waiting.items() if not _has_paused(file, pause, now)})

    def aside(self, grown: Mapping[str, TrackedFile]) -> frozenset[str]:
        """Those of the paths that take so long to be sent that no other file is to wait for them."""
        whole = {path: _size(file) for path, file in grown.items() if not self._may_copy(file)}
        return frozenset(
            path
            for path, size in whole.items()
            if size > WHOLE_SIZE and self._seconds_for(size) > LONGEST_TOGETHER
        )

    def _is_affordable(self, file: TrackedFile, now: float) -> bool:
        sent, size = file.sent.size if file.sent else 0, _size(file)
        cost = size - sent if self._may_copy(file) else size
        return _has_paused(file, 0, now) and is_within(file.sendings.size, size, cost)


def is_within(sent: int, size: int, cost: int) -> bool:
    """Whether a file of this size, of which so many bytes were sent, may be sent for `cost` more."""
    return sent + cost <= MOST_BEFORE_END * size


def _has_paused(file: TrackedFile, pause: float, now: float) -> bool:
    took = file.sendings.took or 0.0
    return now - file.sendings.last_at >= max(pause, _REST * took if took >= _LONG else 0.0)


def _size(file: TrackedFile) -> int:
    return file.seen.size if file.seen else 0
