"""What a command says of its progress, and what becomes of rubbish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.command.progress import has_moved, presentable, with_lines
from kelpie_worker.command.progress_file import ProgressFile
from kelpie_worker.job import Job

JOB = Job("claim", "job")


@pytest.mark.parametrize(
    ("content", "document"),
    [
        (b"0.42", {"fraction": 0.42}),
        (b"1\n", {"fraction": 1.0}),
        (b"7", {"fraction": 1.0}),
        (b'{"step": 41000, "total": 82000}', {"fraction": 0.5, "step": 41000, "total": 82000}),
        (b'{"step": 4, "total": 3e7, "loss": NaN, "lr": Infinity}', {"loss": None, "lr": None}),
        (b'{"step": 1, "total": 0}', {"step": 1, "total": 0}),
        (b'{"fraction": 0.5, "step": 9, "total": 10}', {"fraction": 0.5}),
        (b'{"big": 1' + b"0" * 400 + b"}", {"big": None}),
        (b'{"message": "a\\u0000b\\ud800"}', {"message": "a\ufffdb?"}),
        (b'{"message": "the key is swordfish"}', {"message": "the key is *********"}),
        (b'{"a": {"b": {"c": {"d": {"e": 1}}}}}', {"a": {"b": {"c": {"d": None}}}}),
    ],
)
def test_what_the_command_writes_is_what_the_wire_carries(
    tmp_path: Path, content: bytes, document: dict[str, Any]
) -> None:
    (tmp_path / "progress").write_bytes(content)
    told = ProgressFile(str(tmp_path / "progress"), JOB).look()
    assert presentable(told, [b"swordfish"]).items() >= document.items()


def test_a_large_document_is_cut_to_what_it_is_about() -> None:
    told = {"step": 1, "total": 2, "message": "m" * 3000, "losses": list(range(2000))}
    found = presentable(told, [])
    assert found == {"fraction": 0.5, "step": 1, "total": 2, "message": "m" * 500}
    assert len(json.dumps(presentable({"message": "\u20ac" * 3000, "step": 1}, []))) <= 3500


def test_lines_come_over_the_file() -> None:
    assert with_lines({"fraction": 0.1, "loss": 2}, 42.0, "Rendering", []) == {
        "fraction": 0.42,
        "loss": 2,
        "message": "Rendering",
    }
    assert with_lines({"fraction": 0.1}, None, None, []) == {"fraction": 0.1}


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"step": 1}, {"step": 2}, True),
        ({"fraction": 0.1}, {"fraction": 0.2}, True),
        ({"step": 1, "loss": 1}, {"step": 1, "loss": 2, "message": "alive"}, False),
        ({}, {"fraction": 0.0}, True),
    ],
)
def test_a_message_or_a_metric_is_no_progress(before: dict[str, Any], after: dict[str, Any], moved: bool) -> None:
    assert has_moved(before, after) is moved


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"step":')
        file.truncate(1_000_000_000)


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "rubbish": lambda path: path.write_bytes(b"\xff\xfe nonsense"),
    "a list": lambda path: path.write_text("[1]"),
    "a truth": lambda path: path.write_text("true"),
    "very deep": lambda path: path.write_text("[" * 60_000),
    "a gigabyte": gigabyte,
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a link": link,
    "a file that may not be read": lambda path: path.touch(mode=0),
}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_progress_is_one_warning_and_is_not_waited_for(
    tmp_path: Path, made: Callable[[Path], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "progress"
    made(path)
    file = ProgressFile(str(path), JOB)
    assert [file.look() for _ in range(12)] == [None] * 12
    if os.geteuid() or made is not HOSTILE["a file that may not be read"]:
        assert capfd.readouterr().err.count("progress_not_read") == 1
    (path.rmdir if path.is_dir() else path.unlink)()
    path.write_text("0.5")
    assert file.look() == 0.5


def test_a_file_that_is_half_written_is_looked_at_again_without_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "progress"
    file = ProgressFile(str(path), JOB)
    assert file.look() is None
    for content in ("", '{"step"', '{"step": 4'):
        path.write_text(content)
        assert file.look() is None
    path.write_text('{"step": 41}')
    assert file.look() == {"step": 41} and file.look() is None
    assert "progress_not_read" not in capfd.readouterr().err
