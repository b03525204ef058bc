"""A model of what a kill leaves in the bucket: a trainer, an uplink, an upload policy, and seeded kills.

A trainer saves a checkpoint of several files once a minute and removes the one before. An upload policy turns its
saves into a history of the bucket; a kill at a random moment is judged by what the bucket contains then.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SIZES = (1000.0, 600.0, 300.0, 99.0, 1.0)  # MB of each file of a checkpoint; the last is the marker
PERIOD = 60.0  # seconds between two saves
COMMIT = 0.2  # seconds that one file's commit, or its deletion, takes
SPOILED_BEFORE_COPY = 2
SAVES = 600
WARM_UP = 30  # saves that are not judged

TORN = -1  # a file whose source was rewritten while it was read
Path = tuple[int, int]  # the step's directory, 0 for all where names are fixed; the file's number


@dataclass(frozen=True)
class Change:
    """From `at` on the object has that step's bytes; None: it is deleted."""

    at: float
    path: Path
    step: int | None


@dataclass(frozen=True)
class Trainer:
    fixed_names: bool

    def path(self, step: int, file: int) -> Path:
        # A marker such as `latest` always has the same name.
        return (0 if self.fixed_names or file == len(SIZES) - 1 else step, file)

    def saved(self, step: int) -> float:
        return step * PERIOD

    def step_at(self, moment: float) -> int:
        return int(moment // PERIOD)


def original(trainer: Trainer, uplink: float) -> Iterator[Change]:
    """All files at the same time, each on its own; a change during an upload is dropped; deletions at once."""
    sending: dict[Path, tuple[int, float]] = {}  # step and MB left
    now = 0.0
    for step in range(1, SAVES):
        while sending and now < trainer.saved(step):
            first = min(left for _, left in sending.values())
            until = min(now + first * len(sending) / uplink, trainer.saved(step))
            sent = (until - now) * uplink / len(sending)
            now = until
            for path, (of, left) in list(sending.items()):
                sending[path] = (of, left - sent)
                if left - sent <= 1e-6:
                    yield Change(now, path, sending.pop(path)[0])
        now = trainer.saved(step)
        for file, size in enumerate(SIZES):
            path = trainer.path(step, file)
            sending[path] = (TORN, sending[path][1]) if path in sending else (step, size)
            if trainer.path(step - 1, file) != path:
                sending.pop(trainer.path(step - 1, file), None)
                yield Change(now, trainer.path(step - 1, file), None)


def generations(trainer: Trainer, uplink: float) -> Iterator[Change]:
    """One generation after the other: uploaded invisibly, committed in order, then the older ones deleted."""
    now, spoiled, before, there = PERIOD, 0, 0, set[int]()
    while (step := trainer.step_at(now)) < SAVES:
        if step == before:
            now = trainer.saved(step + 1)
            continue
        ready = now + sum(SIZES) / uplink
        # A file that is replaced before it is opened spoils the generation, unless it was copied first.
        if ready > trainer.saved(step + 1) and spoiled < SPOILED_BEFORE_COPY:
            now, spoiled = trainer.saved(step + 1), spoiled + 1
            continue
        now, spoiled = ready, 0
        for file in range(len(SIZES)):
            now += COMMIT
            yield Change(now, trainer.path(step, file), step)
        for old in sorted(there - {step, before}) if not trainer.fixed_names else ():
            for file in range(len(SIZES) - 1):
                now += COMMIT
                yield Change(now, trainer.path(old, file), None)
            there.discard(old)
        there.add(step)
        before = step


def is_whole(trainer: Trainer, bucket: dict[Path, int]) -> bool:
    """Whether every file of the checkpoint that the marker names is there, and of that step."""
    marked = bucket.get(trainer.path(0, len(SIZES) - 1))
    return marked is not None and all(
        bucket.get(trainer.path(marked, file)) == marked for file in range(len(SIZES))
    )


Policy = Callable[[Trainer, float], Iterator[Change]]
POLICIES: dict[str, Policy] = {"original": original, "generations": generations}


def share_of_torn(policy: Policy, trainer: Trainer, uplink: float, kills: int, seed: int) -> float:
    """The share of kills after which a resume finds a torn checkpoint, or none."""
    moments, verdicts, bucket = [0.0], [False], dict[Path, int]()
    for change in policy(trainer, uplink):
        if change.step is None:
            bucket.pop(change.path, None)
        else:
            bucket[change.path] = change.step
        moments.append(change.at)
        verdicts.append(is_whole(trainer, bucket))
    chance = random.Random(seed)
    killed = (chance.uniform(WARM_UP * PERIOD, moments[-1]) for _ in range(kills))
    return sum(not verdicts[bisect_right(moments, at) - 1] for at in killed) / kills


def table(uplinks: tuple[float, ...], kills: int, seed: int) -> Iterator[tuple[str, bool, list[float]]]:
    """(policy, whether names are fixed, its share for each uplink)."""
    for name, policy in POLICIES.items():
        for fixed in (False, True):
            yield (
                name,
                fixed,
                [share_of_torn(policy, Trainer(fixed), uplink, kills, seed) for uplink in uplinks],
            )
