"""Combine the blocks of a Monte Carlo estimate.

    python gather.py FOLDER

FOLDER holds the block-*.json files that the jobs left in the bucket. Prints the estimate with its standard
error, and what the Black-Scholes formula says. Standard library only.
"""

import json
import sys
from math import exp, fsum, log, sqrt
from pathlib import Path
from statistics import NormalDist

from simulate import RATE, SPOT, STRIKE, VOLATILITY, YEARS


def gather(folder: Path) -> tuple[int, float, float]:
    """(blocks, estimate, standard error) of the blocks in a folder."""
    blocks = [json.loads(path.read_text()) for path in sorted(folder.glob("block-*.json"))]
    if not blocks:
        sys.exit(f"There are no block-*.json files in {folder}.")
    paths = sum(block["paths"] for block in blocks)
    mean = fsum(block["sum"] for block in blocks) / paths
    variance = fsum(block["sum_of_squares"] for block in blocks) / paths - mean**2
    return len(blocks), mean, sqrt(variance / paths)


def black_scholes() -> float:
    spread = VOLATILITY * sqrt(YEARS)
    d1 = (log(SPOT / STRIKE) + (RATE + VOLATILITY**2 / 2) * YEARS) / spread
    below = NormalDist().cdf
    return SPOT * below(d1) - STRIKE * exp(-RATE * YEARS) * below(d1 - spread)


if __name__ == "__main__":
    blocks, estimate, error = gather(Path(sys.argv[1]))
    print(f"{blocks} blocks: {estimate:.4f} +- {error:.4f} (Black-Scholes: {black_scholes():.4f})")
