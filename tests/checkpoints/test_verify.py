"""Whether a bucket holds what was reported, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from kelpie_worker.checkpoints.verify import compare
from kelpie_worker.config import LegacyDirectories
from kelpie_worker.job import Job, StoredObject, SyncBlock, from_saved, from_wire, to_saved
from kelpie_worker.s3.objects import RemoteFile

DIRECTORIES = LegacyDirectories("/input", "/checkpoint", "/output")
C = SyncBlock("b", "c/", "/c")
IN = SyncBlock("b", "in/", "/in")
REPORTED = (StoredObject("b", "c/w", 5, "e1"), StoredObject("b", "c/latest", 1, "e2"))
OTHER = RemoteFile("c/w", 5, "e9", 10.5)
W, LATEST = RemoteFile("c/w", 5, "e1", 10.0), RemoteFile("c/latest", 1, "e2", 11.0)

# What the bucket lists under c/, and what is said of it.
COMPARED = [
    ("as it was reported", [W, LATEST], "clean"),
    ("with what was there before", [W, LATEST, RemoteFile("c/old", 5, "e0", 9.0)], "clean"),
    ("with a folder's mark", [W, LATEST, RemoteFile("c/d/", 0, "e0", 99.0)], "clean"),
    ("a listing without ETags", [RemoteFile("c/w", 5, "", 10.0), LATEST], "clean"),
    ("one of another version", [RemoteFile("c/w", 5, "e9", 12.0), LATEST], "torn"),
    ("one of another size", [RemoteFile("c/w", 6, "", 12.0), LATEST], "torn"),
    ("one is missing", [LATEST], "torn"),
    ("all are missing", [], "torn"),
    ("the first file of the next, in the same second", [W, LATEST, RemoteFile("c/next/w", 5, "e3", 11.0)], "torn"),
    ("the first file of the next", [W, LATEST, RemoteFile("c/next/w", 5, "e3", 12.0)], "torn"),
]


@pytest.mark.parametrize(("listed", "status"), [row[1:] for row in COMPARED], ids=[row[0] for row in COMPARED])
def test_a_checkpoint_is_clean_only_if_it_is_what_was_reported(listed: list[RemoteFile], status: str) -> None:
    job = Job("claim", "job", before=(IN, C), during=(C,), checkpoint=REPORTED)
    inputs = [RemoteFile("in/x", 1, "e", 99.0)]  # younger, but no checkpoint
    found = compare(job, [(IN, inputs), (C, listed)])
    assert found.status == status
    assert bool(found.detail) is (status == "torn")


@pytest.mark.parametrize(
    ("listed", "instead"),
    [
        ([OTHER, LATEST], 1),
        ([OTHER, RemoteFile("c/latest", 1, "e9", 12.0)], 0),  # of one of them no version is known
        (
            [OTHER, LATEST, RemoteFile("c/next/w", 5, "e3", 13.0)],
            0,
        ),  # which was never reported, and is not deleted
        ([LATEST], 0),  # a user deleted it, perhaps so that the job begins anew
    ],
)
def test_older_versions_are_taken_only_where_they_make_a_whole(listed: list[RemoteFile], instead: int) -> None:
    reported = (StoredObject("b", "c/w", 5, "e1", "v1"), REPORTED[1])
    found = compare(Job("claim", "job", before=(C,), during=(C,), checkpoint=reported), [(C, listed)])
    assert (found.status, len(found.instead)) == ("torn", instead)


@pytest.mark.parametrize(("attempt", "version"), [(4, "v1"), (5, None), (None, None)])
def test_versions_of_another_attempt_than_the_one_before_are_never_gone_back_to(
    attempt: int | None, version: str | None
) -> None:
    file = {"bucket": "b", "key": "c/w", "size": 5, "etag": "e1", "version_id": "v1"}
    wire = {"id": "job", "command": "work", "checkpoint": {"attempt": 3, "files": [file]}}
    assert from_wire(wire, "claim", DIRECTORIES, attempt).checkpoint[0].version_id == version


@pytest.mark.parametrize("manifest", [(), (StoredObject("elsewhere", "c/w", 5, "e1"),)])
def test_where_nothing_that_is_downloaded_was_reported_nothing_is_said(manifest: tuple[StoredObject, ...]) -> None:
    job = Job("claim", "job", before=(C,), during=(C,), checkpoint=manifest)
    assert compare(job, [(C, [W])]).status == "none"


@pytest.mark.parametrize("document", [None, [], "x", {"files": 3}, {"files": [{}]}, {"files": [{"key": "a"}]}])
def test_a_manifest_that_cannot_be_read_stops_no_job(document: Any) -> None:
    job = from_wire({"id": "job", "command": "work", "checkpoint": document}, "claim", DIRECTORIES, 1)
    assert job.checkpoint == ()


def test_the_state_file_keeps_the_status_and_not_the_manifest() -> None:
    saved = to_saved(Job("claim", "job", checkpoint=REPORTED, checkpoint_status="torn"))
    assert "checkpoint" not in saved
    assert from_saved(saved).checkpoint_status == "torn"
    del saved["checkpoint_status"]  # as an earlier release wrote it
    assert from_saved(saved).checkpoint_status == "none"
