"""Replacing a small file as a whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kelpie_worker.system import atomic


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for text in ("old", "new, and longer"):
        atomic.write_text(path, text)
        assert path.read_text() == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("failing", "content"), [(1, "old"), (2, "new")], ids=["the file", "the directory"])
def test_what_cannot_be_put_on_the_disk_is_told_and_the_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, content: str
) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.write_text(path, "new")
    assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_beside_it_has_the_name_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "record"
    (tmp_path / "record.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "content", suffix=".new")
    assert list(tmp_path.iterdir()) == []
