"""Write the UCI handwritten digits into a folder: images.npy (1797 x 64, 0 to 1) and labels.npy (1797).

    python prepare.py FOLDER

The data ships inside scikit-learn. It is sorted by writer there, so it is shuffled here, always in the same
way. Upload the folder to the bucket that the training job downloads its input from.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def prepare(folder: Path) -> None:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", digits.data[order] / 16.0)
    np.save(folder / "labels.npy", digits.target[order])


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
