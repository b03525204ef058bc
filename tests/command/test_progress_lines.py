"""Lines of Open Job Description in what a command prints."""

from __future__ import annotations

import tracemalloc

import pytest

from kelpie_worker.command.progress_lines import ProgressLines


def told(*blocks: bytes) -> tuple[float | None, str | None]:
    lines = ProgressLines()
    for block in blocks:
        lines.feed(block)
    return lines.percent, lines.status


@pytest.mark.parametrize(
    ("printed", "percent", "status"),
    [
        (b"openjd_progress: 42\n", 42.0, None),
        (b"openjd_progress: 1\nopenjd_progress: 2\nnoise\n", 2.0, None),
        (b"openjd_status: Rendering\r\n", None, "Rendering"),
        (b"openjd_progress: 101\n", 100.0, None),
        (b"openjd_progress: -3\n", 0.0, None),
        (b"openjd_progress: 5\nopenjd_progress: nan\nopenjd_progress: many\n", 5.0, None),
        (b"said openjd_progress: 42\n", None, None),
        (b"openjd_progress: 42", None, None),
        (b"openjd_progress: 1\nopenjd_progress: 42", 1.0, None),
        (b"openjd_status: " + b"x" * 2000 + b"\n", None, None),
        (b"x" * 2000 + b"openjd_progress: 42\n", None, None),
    ],
)
def test_the_last_whole_line_of_each_kind_counts_however_the_output_is_cut(
    printed: bytes, percent: float | None, status: str | None
) -> None:
    assert told(printed) == (percent, status)
    assert told(*(printed[at : at + 1] for at in range(len(printed)))) == (percent, status)
    assert told(*(printed[at : at + 7] for at in range(0, len(printed), 7))) == (percent, status)


def test_the_end_of_the_output_ends_its_last_line() -> None:
    lines = ProgressLines()
    lines.feed(b"openjd_progress: 100")
    lines.end()
    assert lines.percent == 100.0


def test_a_line_without_an_end_does_not_grow_memory() -> None:
    lines, block = ProgressLines(), b"openjd_progress: " + b"1" * 65_000
    tracemalloc.start()
    for _ in range(500):
        lines.feed(block)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 500_000
    lines.feed(b"\nopenjd_progress: 7\n")
    assert lines.percent == 7.0
