"""Locks that end with the process that holds them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kelpie_worker.system import locks

HOLD = """
import sys, time
from pathlib import Path
from kelpie_worker.system.locks import lock_file
lock_file(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(1000)
"""


def test_a_lock_file_is_made_and_held_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    held = locks.lock_file(path)
    with pytest.raises(locks.LockedElsewhere):
        locks.lock_file(path)
    os.close(held)
    os.close(locks.lock_file(path))


def test_to_ask_whether_a_lock_is_free_makes_and_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert locks.is_free(path) and not path.exists()
    held = locks.lock_file(path)
    assert not locks.is_free(path)
    os.close(held)
    assert locks.is_free(path) and locks.is_free(path)


def test_shared_locks_keep_only_exclusive_ones_away(tmp_path: Path) -> None:
    one, two, three = (os.open(tmp_path, os.O_RDONLY) for _ in range(3))
    assert locks.try_lock(one, shared=True) and locks.try_lock(two, shared=True)
    assert not locks.try_lock(three)
    os.close(one)
    os.close(two)
    assert locks.try_lock(three)
    os.close(three)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        assert not locks.is_free(path)
        holder.kill()
        holder.wait()
    assert locks.is_free(path)


def test_a_lock_file_that_was_removed_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tries = tmp_path / "lock", list[int]()
    lock = locks.try_lock

    def removed_first(descriptor: int) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            path.unlink()
        return lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", removed_first)
    held = locks.lock_file(path)
    assert len(tries) == 2 and locks.is_at(path, held)
    os.close(held)


def test_an_open_file_is_known_to_be_removed_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = locks.lock_file(path)
    assert locks.is_at(path, held)
    path.unlink()
    assert not locks.is_at(path, held)
    path.touch()
    assert not locks.is_at(path, held)
    os.close(held)
