"""Versions of a file, and copies of one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from kelpie_worker.workspace.file_version import PinnedFile, Signature, nameless, signature_of
from tests.workspace.disk import names_in

FORKED = multiprocessing.get_context("fork")


def test_nothing_is_left_of_a_copy_whose_maker_is_killed(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1" * 1000)

    def child() -> None:
        version = signature_of((tmp_path / "weights").stat())
        with PinnedFile.of(str(tmp_path / "weights"), version) as file, nameless(str(tmp_path)) as copy:
            file.copy_to(copy)
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORKED.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert names_in(tmp_path) == ["weights"]


def test_a_file_rewritten_in_place_with_its_time_restored_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    before = path.stat()
    while signature_of(path.stat()) == signature_of(before):  # the clock of the file system has ticks
        path.write_text("new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_version_is_recognized_after_renaming() -> None:
    assert Signature(1, 2, 3, 4).is_but_renamed(Signature(1, 2, 3, 5))
    assert not Signature(1, 2, 3, 4).is_but_renamed(Signature(2, 2, 3, 4))
    assert not Signature(1, 2, 3, 4, device=5).is_but_renamed(Signature(1, 2, 3, 4, device=6))
