"""Lines of a command's standard output that tell of its progress, as Open Job Description has them."""

from __future__ import annotations

import math
from collections.abc import Iterator

_BEGINNING = b"openjd_"
_PROGRESS, _STATUS = b"\nopenjd_progress:", b"\nopenjd_status:"
_MOST_TRIED = 8  # lines of one block, from its end, until one can be read
_LONGEST_LINE = 1024  # bytes; a longer one tells nothing, and is never kept whole


class ProgressLines:
    """Reads `openjd_progress: 42` and `openjd_status: text` out of the output as it passes, block by block.

    Only the last of each counts, so that a command that prints nothing else is not slowed down. Memory is bounded
    whatever is printed. `feed` is called by one thread; `percent` and `status` may be read by another.
    """

    def __init__(self) -> None:
        self.percent: float | None = None  # 0 to 100, as it was told last
        self.status: str | None = None
        self._begun = (
            b"\n"  # the line that has not ended, after the end of the one before; empty: it tells nothing
        )

    def feed(self, block: bytes) -> None:
        text = self._begun + block
        if _BEGINNING in text:
            self._read(text)
        line = text[text.rfind(b"\n") :] if b"\n" in text else b""
        self._begun = line if _may_tell(line) else b""

    def end(self) -> None:
        """The output has ended, and with it the last line."""
        self.feed(b"\n")

    def _read(self, text: bytes) -> None:
        self.percent = next(_percents(_whole_lines(text, _PROGRESS)), self.percent)
        status = next(_whole_lines(text, _STATUS), None)
        self.status = self.status if status is None else status.decode(errors="replace").strip()


def _may_tell(line: bytes) -> bool:
    """Whether a line that has not ended may come to tell of progress. It begins with the end of the one before."""
    begun = line[1 : 1 + len(_BEGINNING)]
    return bool(line) and len(line) <= _LONGEST_LINE and _BEGINNING.startswith(begun)


def _whole_lines(text: bytes, name: bytes) -> Iterator[bytes]:
    """What follows the name in the last lines that begin with it, the last one first."""
    end = text.rfind(b"\n")  # what follows it has not ended
    for _ in range(_MOST_TRIED):
        end = text.rfind(name, 0, end)
        if end < 0:
            return
        line = text[end + len(name) : text.index(b"\n", end + 1)]
        if len(line) <= _LONGEST_LINE:
            yield line


def _percents(lines: Iterator[bytes]) -> Iterator[float]:
    return (percent for line in lines if (percent := _percent(line)) is not None)


def _percent(told: bytes) -> float | None:
    try:
        percent = float(told)
    except ValueError:
        return None
    return min(max(percent, 0.0), 100.0) if math.isfinite(percent) else None
