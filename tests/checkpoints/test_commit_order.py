"""The order in which a generation appears in the bucket, and what is deleted after it."""

from __future__ import annotations

import pytest

from kelpie_worker.checkpoints.commit_order import commit_order, commit_steps
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory, TrackedFiles
from kelpie_worker.workspace.file_version import Signature


def signature(mtime: int, size: int = 1) -> Signature:
    return Signature(1, size, mtime)


def test_commits_go_by_age_and_small_markers_last() -> None:
    files = {
        "latest": signature(1),
        "step/index.json": signature(2),
        "huge.json": signature(4, 10_000_000),
        "step/b": signature(3),
        "step/a": signature(3),
        "old": signature(0),
    }
    assert commit_order(files) == ["old", "step/a", "step/b", "huge.json", "latest", "step/index.json"]
    assert commit_steps(files) == (["old", "step/a", "step/b"], ["huge.json", "latest", "step/index.json"])
    assert commit_steps({"latest": signature(1)}) == ([], ["latest"])


@pytest.mark.parametrize(
    ("had", "now", "previous", "final", "due"),
    [
        ({"a", "b"}, {"b"}, {"a", "b"}, False, []),  # the generation before still has it
        ({"a", "b"}, {"b"}, {"b"}, False, ["a"]),
        ({"a", "b"}, {"b"}, {"a", "b"}, True, ["a"]),
        ({"b"}, {"b"}, {"a", "b"}, True, []),  # never here
        ({"a"}, set(), {"a"}, True, ["a"]),
        (set(), set(), set(), True, []),
    ],
)
def test_what_is_deleted_after_a_generation(
    had: set[str], now: set[str], previous: set[str], final: bool, due: list[str]
) -> None:
    files = TrackedFiles(DirectoryHistory({}, {}, {}, False), lambda path: True, lambda path: ("b", path))
    for path in had:
        files[path].was_here = True
    for path in previous:
        files[path].in_last_generation = True
    assert files.removed({path: signature(1) for path in now}, final) == due
