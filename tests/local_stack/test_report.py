"""The demo's verdict: right only if everything is."""

from collections.abc import Mapping

import pytest

from local_stack.demo.report import Result, sha256, table

BYTES = {"weights.npz": b"\x01\x02"}


def result(
    completed: int = 1,
    failures: int = 0,
    output: Mapping[str, bytes] = BYTES,
    expected: Mapping[str, bytes] = BYTES,
) -> Result:
    return Result("digits", 1, completed, 2, 1, failures, "22 %", 57.1, 0.7, output, expected)


def test_a_completed_job_with_equal_bytes_is_right() -> None:
    assert result().is_right


@pytest.mark.parametrize(
    "spoiled",
    [
        result(completed=0),
        result(failures=1),
        result(output={"weights.npz": b"\x01\x03"}),
        result(output={}),
        result(output={**BYTES, "more": b""}),
        result(output={}, expected={}),
    ],
    ids=["not completed", "failed once", "other bytes", "no file", "a file too many", "nothing to compare"],
)
def test_anything_else_is_not(spoiled: Result) -> None:
    assert not spoiled.is_right


def test_the_table_shows_both_sums_where_bytes_differ() -> None:
    other = {"weights.npz": b"\x01\x03"}
    shown = table([result(output=other)])
    assert f"DIFFERENT from {sha256(BYTES)}" in shown
    assert sha256(other) in shown
    assert "same" not in shown
