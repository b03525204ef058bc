"""Names that a job's files may have, for a bucket that takes only some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.sync.likely_names import likely_names

BLOCK = SyncBlock("bucket", "ck/", "/opt/job/ck", named="ck")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"\.pt$", [".pt", "x.pt"]),
        (r"^step-\d+\.(pt|ckpt)$", ["step-1.pt", "x.pt", "x.ckpt"]),
        (r"^model_.*\.h5$", ["model_x.h5", "x.h5"]),
        (r"^(?:best|last)$", ["best"]),
        (r"^state$", ["state"]),
        (r"[a-f]{3}(?=x)\.npz", ["x.npz"]),
        ("", []),
    ],
)
def test_a_pattern_tells_names(pattern: str, expected: list[str]) -> None:
    names = likely_names(Job("claim", "id"), replace(BLOCK, pattern=pattern))
    assert names[: len(expected)] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "echo 1 > .t; mv .t ck/latest; cp a /opt/job/ck/step-1/w"], ["latest", "step-1/w"]),
        (["--out=./ck/best.bin", "--token=ab.cd/ck/secret", "stack/x", "ck/"], ["best.bin"]),
        (["--token", "secret.pt"], []),
    ],
)
def test_the_command_line_tells_names_in_the_directory_and_nothing_else_of_it_is_asked_for(
    arguments: list[str], expected: list[str]
) -> None:
    names = likely_names(Job("claim", "id", command="sh", arguments=tuple(arguments)), BLOCK)
    assert names[: len(expected)] == expected
    assert not any("secret" in name for name in names)


def test_what_jobs_usually_write_is_likely_and_ends_as_its_keys_do() -> None:
    assert {"x.pt", "x.ckpt", "x.csv", "x.xtc"} <= set(likely_names(Job("claim", "id"), BLOCK))
    assert {"ckpt-1", "checkpoint_1", "model", "results/x"} <= set(likely_names(Job("claim", "id"), BLOCK))
    assert {"x.pt.gz", "x.csv.gz"} <= set(likely_names(Job("claim", "id", compression=True), BLOCK))


def test_what_the_bucket_took_of_an_earlier_attempt_is_the_likeliest() -> None:
    places = [("bucket", "ck/run/7.bin.gz"), ("another", "ck/x1"), ("bucket", "other/x2")]
    job = Job(
        "claim", "id", compression=True, checkpoint=tuple(StoredObject(*place, 1, "etag") for place in places)
    )
    names = likely_names(job, BLOCK)
    assert names[0] == "run/7.bin.gz"
    assert not {"x1", "x2"} & set(names)
