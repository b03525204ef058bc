"""The job of bench.torn: checks whether the checkpoint that it was given is whole, and goes on training.

    python trainer.py KIND FILES BYTES PERIOD LOG

KIND: `steps`, a directory for each step and a file `latest` that names the newest, or `fixed`, the same files
rewritten in place. Every file has the mark of its save in each MiB and a digest at its end, so that a mixture of
two saves is recognized by content. For each start a line of JSON is written to LOG, before the first save.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

MIB = 1024 * 1024
CHECKPOINT = Path("checkpoint")
LATEST, STATE = "latest", "state.json"
ONE_STEP = 10**9  # a mark is a step times this, plus a random number of this run of the program


def main(kind: str, files: int, size: int, period: float, log: Path) -> None:
    found, step, detail = (judge_steps if kind == "steps" else judge_fixed)(files)
    line = {"status": os.environ["KELPIE_CHECKPOINT_STATUS"], "found": found, "step": step, "detail": detail}
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    noise, run = os.urandom(MIB), random.randrange(ONE_STEP)
    for step in itertools.count(newest_step() + 1):
        began = time.monotonic()
        (save_step if kind == "steps" else save_fixed)(step * ONE_STEP + run, files, size // files, noise)
        time.sleep(max(0.0, period - (time.monotonic() - began)))


def save_step(mark: int, files: int, size: int, noise: bytes) -> None:
    """Save a new directory, then delete the old ones."""
    folder = CHECKPOINT / f"step-{mark // ONE_STEP:06}"
    folder.mkdir()
    for number in range(files):
        write(folder / f"weights-{number}", mark, size, noise)
    draft = CHECKPOINT / ".latest"
    draft.write_text(folder.name)
    draft.rename(CHECKPOINT / LATEST)
    for old in CHECKPOINT.glob("step-*"):
        if old != folder:
            shutil.rmtree(old)


def save_fixed(mark: int, files: int, size: int, noise: bytes) -> None:
    for number in range(files):
        write(CHECKPOINT / f"weights-{number}", mark, size, noise)
    (CHECKPOINT / STATE).write_text(json.dumps({"mark": mark}))


def write(path: Path, mark: int, size: int, noise: bytes) -> None:
    digest = hashlib.blake2b()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            piece = b"%020d" % mark + noise[20 : min(MIB, size - start)]
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def judge_steps(files: int) -> tuple[str, int, str]:
    if not (CHECKPOINT / LATEST).exists():
        return ("torn", 0, "no latest") if any(CHECKPOINT.iterdir()) else ("missing", 0, "")
    folder = CHECKPOINT / (CHECKPOINT / LATEST).read_text()
    return verdict(marks_of(folder / f"weights-{number}" for number in range(files)))


def judge_fixed(files: int) -> tuple[str, int, str]:
    if not any(CHECKPOINT.iterdir()):
        return "missing", 0, ""
    state = CHECKPOINT / STATE
    marked = json.loads(state.read_text())["mark"] if state.exists() else None
    return verdict([marked, *marks_of(CHECKPOINT / f"weights-{number}" for number in range(files))])


def verdict(marks: list[int | None]) -> tuple[str, int, str]:
    """(whole or torn, step, detail): whole if every file is, and all are of one save."""
    whole = None not in marks and len(set(marks)) == 1
    return "whole" if whole else "torn", (marks[0] or 0) // ONE_STEP, "" if whole else f"files of saves {marks}"


def marks_of(paths: Iterable[Path]) -> list[int | None]:
    return [mark_of(path) if path.exists() else None for path in paths]


def mark_of(path: Path) -> int | None:
    """The mark of a file that is whole; None if it is not."""
    content = path.read_bytes()
    body, digest = content[:-64], content[-64:]
    return int(body[:20]) if hashlib.blake2b(body).digest() == digest else None


def newest_step() -> int:
    """The newest step of which any file is there, so that no step is saved twice."""
    named = [int(path.name.removeprefix("step-")) for path in CHECKPOINT.glob("step-*")]
    written = [(mark_of(path) or 0) // ONE_STEP for path in CHECKPOINT.glob("weights-*")]
    return max([0, *named, *written])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
