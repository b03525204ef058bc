"""Train a classifier on the handwritten digits; stop it at any moment, start it again, get the same bytes.

    python train.py INPUT CHECKPOINTS OUTPUT [--epochs 40]

INPUT is what prepare.py wrote. After each epoch everything that the next one depends on goes into a
checkpoint (weights, optimizer, random generator), and the epoch and its loss into the file that KELPIE_PROGRESS
names. OUTPUT gets weights.npz and metrics.json. The environment
variable SECONDS_PER_EPOCH (default 0) stretches the training, to have time to interrupt it.
"""

import argparse
import io
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import checkpoint

# More threads add up in another order, and then the last bits differ from run to run.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402 (it reads the number of threads when it is imported)

HIDDEN = 256
BATCH = 64
HELD_OUT = 360  # images that the training never sees
LEARNING_RATE = 1e-3
SECONDS_PER_EPOCH = float(os.environ.get("SECONDS_PER_EPOCH", "0"))

Arrays = dict[str, np.ndarray]


@dataclass
class Training:
    """The complete state between two epochs."""

    weights: Arrays
    momentum: Arrays  # Adam's first moments
    variance: Arrays  # Adam's second moments
    steps: int
    losses: list[float]
    random: np.random.Generator

    @classmethod
    def begin(cls) -> "Training":
        random = np.random.default_rng(20240419)
        weights = {
            "w1": random.normal(0, 64**-0.5, (64, HIDDEN)),
            "b1": np.zeros(HIDDEN),
            "w2": random.normal(0, HIDDEN**-0.5, (HIDDEN, 10)),
            "b2": np.zeros(10),
        }
        zeros = [{name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2)]
        return cls(weights, zeros[0], zeros[1], 0, [], random)

    def to_files(self) -> dict[str, bytes]:
        moments = {f"m_{k}": v for k, v in self.momentum.items()} | {f"v_{k}": v for k, v in self.variance.items()}
        progress = {"steps": self.steps, "losses": self.losses, "generator": self.random.bit_generator.state}
        return {
            "weights.npz": npz(self.weights),
            "optimizer.npz": npz(moments),
            "random.json": json.dumps(progress).encode(),
        }

    @classmethod
    def from_files(cls, files: dict[str, bytes]) -> "Training":
        moments = arrays(files["optimizer.npz"])
        progress = json.loads(files["random.json"])
        training = cls(
            weights=arrays(files["weights.npz"]),
            momentum={k[2:]: v for k, v in moments.items() if k.startswith("m_")},
            variance={k[2:]: v for k, v in moments.items() if k.startswith("v_")},
            steps=progress["steps"],
            losses=progress["losses"],
            random=np.random.default_rng(),
        )
        training.random.bit_generator.state = progress["generator"]
        return training


def npz(content: Arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **content)
    return file.getvalue()


def arrays(content: bytes) -> Arrays:
    with np.load(io.BytesIO(content)) as file:
        return dict(file)


def probabilities(weights: Arrays, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden activations and class probabilities of a network with one hidden layer."""
    hidden = np.maximum(images @ weights["w1"] + weights["b1"], 0)
    scores = hidden @ weights["w2"] + weights["b2"]
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, odds / odds.sum(axis=1, keepdims=True)


def gradients(weights: Arrays, images: np.ndarray, labels: np.ndarray) -> tuple[float, Arrays]:
    """Mean cross-entropy and its gradient by back propagation."""
    hidden, likely = probabilities(weights, images)
    rows = np.arange(len(labels))
    loss = -np.log(likely[rows, labels] + 1e-12).mean()
    likely[rows, labels] -= 1
    error = likely / len(labels)
    hidden_error = (error @ weights["w2"].T) * (hidden > 0)
    slopes = {
        "w1": images.T @ hidden_error,
        "b1": hidden_error.sum(axis=0),
        "w2": hidden.T @ error,
        "b2": error.sum(axis=0),
    }
    return float(loss), slopes


def adam_step(training: Training, slopes: Arrays) -> None:
    training.steps += 1
    for name, slope in slopes.items():
        training.momentum[name] = 0.9 * training.momentum[name] + 0.1 * slope
        training.variance[name] = 0.999 * training.variance[name] + 0.001 * slope**2
        momentum = training.momentum[name] / (1 - 0.9**training.steps)
        variance = training.variance[name] / (1 - 0.999**training.steps)
        training.weights[name] -= LEARNING_RATE * momentum / (np.sqrt(variance) + 1e-8)


def train_epoch(training: Training, images: np.ndarray, labels: np.ndarray) -> None:
    losses = []
    order = training.random.permutation(len(labels))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        loss, slopes = gradients(training.weights, images[batch], labels[batch])
        adam_step(training, slopes)
        losses.append(loss)
    training.losses.append(sum(losses) / len(losses))


def accuracy(training: Training, images: np.ndarray, labels: np.ndarray) -> float:
    _, likely = probabilities(training.weights, images)
    return float((likely.argmax(axis=1) == labels).mean())


def resume_or_begin(folder: Path, epochs: int) -> tuple[int, Training]:
    saved = checkpoint.load_newest(folder)
    if saved is None:
        print("digits: starts", flush=True)
        return 0, Training.begin()
    epoch, files = saved
    print(f"digits: resumed from step {epoch} of {epochs}", flush=True)
    return epoch, Training.from_files(files)


def tell_progress(epoch: int, epochs: int, losses: list[float]) -> None:
    if told_in := os.environ.get("KELPIE_PROGRESS"):
        progress = {"step": epoch, "total": epochs, "loss": losses[-1] if losses else None}
        checkpoint.write_whole(Path(told_in), json.dumps(progress).encode())


def main(inputs: Path, checkpoints: Path, output: Path, epochs: int) -> None:
    images, labels = np.load(inputs / "images.npy"), np.load(inputs / "labels.npy")
    epoch, training = resume_or_begin(checkpoints, epochs)
    tell_progress(epoch, epochs, training.losses)
    while epoch < epochs:
        time.sleep(SECONDS_PER_EPOCH)
        train_epoch(training, images[HELD_OUT:], labels[HELD_OUT:])
        epoch += 1
        checkpoint.save(checkpoints, epoch, training.to_files())
        tell_progress(epoch, epochs, training.losses)
        print(f"digits: step {epoch} of {epochs}, loss {training.losses[-1]:.4f}", flush=True)
    right = accuracy(training, images[:HELD_OUT], labels[:HELD_OUT])
    metrics = {"epochs": epochs, "accuracy": right, "losses": training.losses}
    output.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(output / "weights.npz", npz(training.weights))
    checkpoint.write_whole(output / "metrics.json", json.dumps(metrics).encode())
    print(f"digits: {right:.1%} of {HELD_OUT} unseen digits are read correctly", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a classifier on the handwritten digits.")
    for folder in ("inputs", "checkpoints", "output"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    try:
        main(**vars(parser.parse_args()))
    except checkpoint.DamagedCheckpoint as error:
        sys.exit(f"digits: {error}")
