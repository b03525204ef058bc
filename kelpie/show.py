"""How things look on a terminal: tables, bars, ages, timelines.

What people wrote is made harmless before it is shown.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from kelpie.models import Attempt, JobData, SweepData

# Colour is never alone: the word stands beside it.
COLOURS = {
    "running": "green",
    "completed": "green",
    "downloading": "cyan",
    "uploading": "cyan",
    "waiting": "yellow",
    "pending": "yellow",
    "parked": "magenta",
    "stalled": "red",
    "failed": "red",
    "canceled": "bright_black",
    "interrupted": "yellow",
    "released": "yellow",
}
WIDE = 80  # columns of a terminal on which a table shows its empty columns, too
BLOCKS = "▁▂▃▄▅▆▇█"
LETTERS = {"completed": "C", "failed": "F", "interrupted": "I", "released": "R", "canceled": "X", None: ">"}
# Characters that turn the direction of text around, with which a name can pretend to be another.
TURNING = {chr(code) for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def on_terminal() -> bool:
    return sys.stdout.isatty()


def plain(text: object, *, lines: bool = False) -> str:
    """Text that moves no cursor and changes no colour: control characters are shown as `?`."""
    kept = "\n\t" if lines else ""
    return "".join(
        sign if sign in kept or not (unicodedata.category(sign) == "Cc" or sign in TURNING) else "?"
        for sign in str(text)
    )


def width(text: str) -> int:
    """How many columns a text takes."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def cut(text: str, columns: int) -> str:
    """The text in so many columns at most."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], colours: Sequence[str | None] = ()) -> None:
    """Print rows: in columns with a head on a terminal, else separated by tabs and without a head."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if not on_terminal():
        for row in cells:
            click.echo("\t".join(row))
        return
    screen = shutil.get_terminal_size().columns
    places = [
        place for place in range(len(head)) if screen >= WIDE or any(row[place] for row in cells) or not cells
    ]
    shown = [[row[place] for place in places] for row in [list(head), *cells]]
    widths = [max(width(row[place]) for row in shown) for place in range(len(places))]
    while sum(widths) + 2 * (len(widths) - 1) > screen and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    for index, row in enumerate(shown, -1):
        style = {"bold": True} if index < 0 else {"fg": colours[index] if index < len(colours) else None}
        click.echo(styled(cut(line(row, widths), screen), **style))


def line(cells: list[str], widths: list[int]) -> str:
    cut_cells = [cut(cell, wide) for cell, wide in zip(cells, widths, strict=True)]
    padded = [cell + " " * (wide - width(cell)) for cell, wide in zip(cut_cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def room(most: int, before: int = 0) -> int:
    """The columns for what stands behind so many others on one line of the terminal: `most` or fewer."""
    return max(min(most, shutil.get_terminal_size().columns - before), 10)


def fact(name: str, value: str, colour: str | None = None, columns: int = 12) -> None:
    """Print one thing that is known: in two columns on a terminal, else separated by a tab."""
    if on_terminal():
        click.echo(f"{styled(name.ljust(columns - 1) + ' ', bold=True)}{styled(value, fg=colour)}")
    else:
        click.echo(f"{name}\t{value}")


def styled(text: str, **style: Any) -> str:
    """The text with colours, unless NO_COLOR is set (no-color.org) or it goes elsewhere than to a terminal."""
    return text if os.environ.get("NO_COLOR") or not on_terminal() else click.style(text, **style)


def say(sentence: str) -> None:
    """Talk, which goes to standard error, so that data can be piped on."""
    click.echo(plain(sentence, lines=True), err=True)


def as_json(value: Any) -> None:
    """One JSON value on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def duration(seconds: float | None) -> str:
    """Such as `45s`, `12m`, `3.5h`, `2.1d`."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 120:
        return f"{seconds:.0f}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    if seconds < 172800:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds / 86400:.1f}d"


def size(count: float) -> str:
    """Bytes such as `512 B`, `1.5 kB`, `2.0 GB`, in powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def age(moment: datetime | None, now: datetime | None = None) -> str:
    if moment is None:
        return ""
    return duration(((now or datetime.now(UTC)) - moment).total_seconds())


def bar(fraction: float | None, columns: int = 10) -> str:
    """A bar with its percentage, such as `█████░░░░░  50 %`; empty if nothing is known."""
    if fraction is None:
        return ""
    share = min(max(fraction, 0.0), 1.0)
    full = int(share * columns)
    return f"{'█' * full}{'░' * (columns - full)} {share * 100:3.0f} %"


def sparkline(values: Sequence[float], columns: int = 40) -> str:
    """The course of a number, as one line."""
    kept = [value for value in values if value == value]  # without NaN
    if not kept:
        return ""
    step = max(1, -(-len(kept) // columns))
    shown = [sum(part) / len(part) for part in (kept[at : at + step] for at in range(0, len(kept), step))]
    low, high = min(shown), max(shown)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[int((value - low) * scale)] for value in shown)


def timeline(job: JobData, attempts: Sequence[Attempt], columns: int = 60, now: datetime | None = None) -> str:
    """The attempts on a line of time: `=` while a machine had the job, `.` while it waited, a letter at each end.

    C completed, F failed, I interrupted, R released, X canceled, > runs.
    """
    if not attempts or job.created is None:
        return ""
    end = job.ended or now or datetime.now(UTC)
    whole = max((end - job.created).total_seconds(), 1.0)
    signs = ["."] * columns

    def place(moment: datetime) -> int:
        assert job.created is not None
        return min(max(int((moment - job.created).total_seconds() / whole * (columns - 1)), 0), columns - 1)

    begun = [(place(attempt.claimed), attempt) for attempt in attempts if attempt.claimed]
    ended = [(first, place(attempt.ended or end), attempt) for first, attempt in begun]
    for first, last, _ in ended:
        signs[first : last + 1] = ["="] * (last - first + 1)
    for _, last, attempt in ended:  # after all lines: the next attempt may begin where one ends
        signs[last] = LETTERS.get(attempt.outcome, "?")
    return "".join(signs)


def job_row(job: JobData, now: datetime | None = None) -> list[str]:
    """NAME ID PHASE PROGRESS ETA TRY CKPT-AGE MACHINE AGE."""
    now = now or datetime.now(UTC)
    eta = job.progress.eta
    checkpoint = job.checkpoint
    parked = f" ({', '.join(job.parked)})" if job.parked else ""
    return [
        job.name or "",
        job.id[-8:],
        job.phase + parked,
        bar(job.progress.fraction, 6),
        duration((eta - now).total_seconds()) if eta and not job.is_final else "",
        str(job.attempt),
        age(checkpoint.at, now) if checkpoint else "",
        job.machine_id or "",
        age(job.created, now),
    ]


JOB_HEAD = ("NAME", "ID", "PHASE", "PROGRESS", "ETA", "TRY", "CKPT-AGE", "MACHINE", "AGE")


def sweep_row(sweep: SweepData, now: datetime | None = None) -> list[str]:
    """A sweep in a table of jobs."""
    done = bar(sweep.done / sweep.total, 6) if sweep.total else ""
    phase = f"sweep, {sweep.done} of {sweep.total} ended"
    return [sweep.name or "", sweep.id[-8:], phase, done, "", "", "", "", age(sweep.created, now)]


def jobs_table(rows: Sequence[JobData | SweepData]) -> None:
    """Jobs, and sweeps in place of theirs."""
    cells = [job_row(row) if isinstance(row, JobData) else sweep_row(row) for row in rows]
    table(JOB_HEAD, cells, [COLOURS.get(row.phase) if isinstance(row, JobData) else None for row in rows])
