"""The outputs of uninterrupted jobs: the same scripts, run without Kelpie.

    python -m local_stack.demo.reference FOLDER

FOLDER/digits/input contains the data set. The results go to FOLDER/<job>/output.
"""

import os
import subprocess
import sys
from pathlib import Path

from local_stack.demo.jobs import BLOCKS, COUNT_TO, EPOCHS, EXAMPLES


def run(script: str, *arguments: object, **environment: str) -> None:
    program = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    subprocess.run(program, env={**os.environ, **environment}, check=True)


def run_counting(folder: Path) -> None:
    directories = {f"{name.upper()}_DIR": str(folder / name) for name in ("input", "checkpoint", "output")}
    (folder / "input").mkdir(parents=True)
    (folder / "input" / "limit.txt").write_text(str(COUNT_TO))
    run("counting/count.py", **directories)


def run_digits(folder: Path) -> None:
    run("digits/train.py", folder / "input", folder / "checkpoints", folder / "output", "--epochs", EPOCHS)


def run_montecarlo(folder: Path) -> None:
    run("montecarlo/simulate.py", folder / "output", *range(BLOCKS))


def output_of(folder: Path, job: str) -> dict[str, bytes]:
    """{name: bytes} of an uninterrupted run, as `S3Server.files` returns them for the interrupted one."""
    output = folder / job / "output"
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    run_counting(target / "counting")
    run_digits(target / "digits")
    run_montecarlo(target / "montecarlo")
