"""Simulate one block of a Monte Carlo estimate: the price of a European call option.

    python simulate.py OUTPUT BLOCK [BLOCK ...]

Writes OUTPUT/block-0017.json for block 17, under another name first, and passes over blocks that are there
already: the blocks that are done are the checkpoint of a job of many. The block's number seeds the random
generator, so that a block that is run twice gives the same bytes. A block takes some tens of milliseconds: too
short for a checkpoint within it, an interrupted one is simply run again. What part of the blocks is done goes
into the file that KELPIE_PROGRESS names; SECONDS_PER_BLOCK makes each take longer. Standard library only.
"""

import json
import os
import sys
import time
from math import exp, fsum, sqrt
from pathlib import Path
from random import Random

PATHS_PER_BLOCK = 20_000
SPOT, STRIKE, RATE, VOLATILITY, YEARS = 100.0, 105.0, 0.03, 0.2, 1.0


def payoffs(block: int) -> list[float]:
    """The discounted payoff of each simulated path."""
    gauss = Random(f"block {block}").gauss
    drift = (RATE - VOLATILITY**2 / 2) * YEARS
    spread = VOLATILITY * sqrt(YEARS)
    discount = exp(-RATE * YEARS)
    return [discount * max(SPOT * exp(drift + spread * gauss(0, 1)) - STRIKE, 0) for _ in range(PATHS_PER_BLOCK)]


def is_done(file: Path) -> bool:
    """Whether a whole block is there, of an earlier run."""
    try:
        return "sum_of_squares" in json.loads(file.read_text())
    except (OSError, ValueError):
        return False


def simulate(block: int, output: Path) -> None:
    file = output / f"block-{block:04d}.json"
    if is_done(file):
        return
    time.sleep(float(os.environ.get("SECONDS_PER_BLOCK", "0")))
    values = payoffs(block)
    result = {
        "block": block,
        "paths": len(values),
        "sum": fsum(values),
        "sum_of_squares": fsum(value * value for value in values),
    }
    output.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(result))
    draft.rename(file)


def tell_progress(done: int, blocks: int) -> None:
    if told_in := os.environ.get("KELPIE_PROGRESS"):
        Path(told_in).write_text(str(done / blocks))


if __name__ == "__main__":
    blocks = sys.argv[2:]
    for done, block in enumerate(blocks, start=1):
        simulate(int(block), Path(sys.argv[1]))
        tell_progress(done, len(blocks))
