"""Checkpoints of several files that are either whole or recognizably not.

One folder per epoch. Every file is written under a temporary name and renamed; index.json, written last,
names the others with their sha256. A folder without an index was never finished; one whose index disagrees
with its files is damaged. Neither is ever loaded.

    checkpoints/epoch-0007/weights.npz  optimizer.npz  random.json  index.json
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

INDEX = "index.json"
KEPT = 2  # the newest, and the one before it in case the newest arrives damaged


class DamagedCheckpoint(Exception):
    """Checkpoints were saved here once, and none of them can be loaded."""


def save(folder: Path, epoch: int, files: Mapping[str, bytes]) -> None:
    target = folder / f"epoch-{epoch:04d}"
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(target / name, content)
    index = {name: sha256(content) for name, content in files.items()}
    write_whole(target / INDEX, json.dumps(index, indent=1).encode())
    remove(newest_first(folder)[KEPT:])


def load_newest(folder: Path) -> tuple[int, dict[str, bytes]] | None:
    """The newest whole checkpoint as (epoch, files), or None if none was ever finished.

    Folders that are passed over are reported and removed. Raises DamagedCheckpoint if there were finished
    checkpoints and all of them are damaged: starting over in silence would throw the work away.
    """
    passed_over: list[Path] = []
    for candidate in newest_first(folder):
        trouble = what_is_wrong(candidate)
        if trouble is None:
            remove(passed_over)
            return epoch_of(candidate), read_files(candidate)
        print(f"digits: passing over {candidate.name}: {trouble}", flush=True)
        passed_over.append(candidate)
    if any((candidate / INDEX).exists() for candidate in passed_over):
        raise DamagedCheckpoint(f"no checkpoint in {folder} is whole; delete them all to start over")
    remove(passed_over)
    return None


def what_is_wrong(candidate: Path) -> str | None:
    if not (candidate / INDEX).exists():
        return "it was never finished"
    try:
        index = json.loads((candidate / INDEX).read_text())
    except ValueError:
        return f"{INDEX} cannot be read"
    for name, expected in index.items():
        if not (candidate / name).exists():
            return f"{name} is missing"
        if sha256((candidate / name).read_bytes()) != expected:
            return f"{name} is not the file that was saved"
    return None


def remove(candidates: list[Path]) -> None:
    for candidate in candidates:
        shutil.rmtree(candidate)


def read_files(candidate: Path) -> dict[str, bytes]:
    names = json.loads((candidate / INDEX).read_text())
    return {name: (candidate / name).read_bytes() for name in names}


def newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"), reverse=True)


def epoch_of(candidate: Path) -> int:
    return int(candidate.name.removeprefix("epoch-"))


def write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_bytes(content)
    draft.replace(path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
