"""How values are shown to people: durations, times, sizes, and text that others chose.

Text that others chose may hold anything: the templates escape its markup, and here what would move, hide or
reorder the text around it becomes visible.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Any

FILTERS = (
    "ago", "brief", "counted", "duration", "hours", "moment", "money", "percent", "plain", "printed", "size",
)  # fmt: skip
LONGEST_SHOWN = 300  # characters of a name, a label, a reason
LONGEST_LINE = 4000  # characters of a line of output
# Escape sequences of terminals: colours, moves of the cursor, titles of windows and links.
OSC = re.compile(r"(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]{0,4000}(?:\x07|\x1b\\|\x9c)?")
CSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?")
OTHER = re.compile(r"\x1b[ -/]*[0-~]?")


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units: `1 d 4 h`, `3 m 20 s`, `45 s`."""
    if seconds is None:
        return "–"
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or parts or unit == "s":
            parts.append(f"{number} {unit}" if number or not parts else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def brief(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def hours(seconds: float | None) -> str:
    """Machine time in hours, the unit that it is paid in."""
    if seconds is None:
        return "–"
    number = seconds / 3600
    return f"{number:,.1f} h" if number < 100 else f"{number:,.0f} h"


def moment(at: datetime | None) -> str:
    """A time in UTC, to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S") if at else "–"


def ago(at: datetime | None, now: datetime) -> str:
    return f"{duration((now - at).total_seconds())} ago" if at else "–"


def size(number: int | None) -> str:
    """Bytes with their unit."""
    if number is None:
        return "–"
    value, step = float(number), 2**10
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < step:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= step
    return f"{value:,.1f} TiB"


def money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def percent(part: float | None, digits: int = 0) -> str:
    return "–" if part is None else f"{100 * part:.{digits}f} %"


def counted(number: int) -> str:
    return f"{number:,}"


def plain(text: Any, most: int = LONGEST_SHOWN) -> str:
    """Text that others chose, in one line: control and direction characters as their code, the rest of it cut."""
    value = str(text)
    cut = f"{value[:most]}…" if len(value) > most else value
    return "".join(map(visible, cut))


def visible(character: str) -> str:
    if character.isprintable() or character in "\u00a0\u3000":
        return character
    # Not printable are controls, marks that change the direction of what follows, and separators of lines.
    name = unicodedata.category(character)
    return " " if character in "\n\r\t" else f"‹{name}:{ord(character):04X}›"


def printed(content: bytes) -> str:
    """What a command printed, without colours: of a line that was written over (`\\r`) its last state."""
    text = OTHER.sub("", CSI.sub("", OSC.sub("", content.decode(errors="replace"))))
    return "\n".join(map(line_shown, text.split("\n")))


def line_shown(line: str) -> str:
    states = [state for state in line.split("\r") if state]
    last = states[-1] if states else ""
    cut = f"{last[:LONGEST_LINE]}…" if len(last) > LONGEST_LINE else last
    return "".join(character if character == "\t" else visible(character) for character in cut)
