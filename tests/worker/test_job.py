"""A job as it comes over the wire, and as it is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.config import LegacyDirectories
from kelpie_worker.job import Job, Steering, SyncBlock, from_saved, from_wire, to_saved
from kelpie_worker.sync.progress import TransfersUnderWay

DIRECTORIES = LegacyDirectories("/input", "/checkpoint", "/output")


def wire(**fields: Any) -> dict[str, Any]:
    return {"id": "1", "command": "run", **fields}


def test_both_generations_of_a_job_have_one_shape() -> None:
    names = ("input", "checkpoint", "output")
    legacy = {f"{name}_bucket": "b" for name in names} | {f"{name}_prefix": f"{name}s" for name in names}
    job = from_wire(wire(sync=None, **legacy), "claim", DIRECTORIES, None)
    inputs, checkpoint = job.before
    assert (inputs.prefix, inputs.local_path) == ("inputs/", "/input")
    assert job.during == (checkpoint, SyncBlock("b", "outputs/", "/output", mirrors_deletes=False))
    assert job.after == job.during[1:]


def test_a_job_without_files_moves_none_even_beside_legacy_keys() -> None:
    job = from_wire(wire(sync={}, input_bucket=None), "claim", DIRECTORIES, None)
    assert (job.before, job.during, job.after) == ((), (), ())


def test_relative_paths_are_taken_from_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    block = {"bucket": "b", "prefix": "p", "local_path": "a/../in/", "direction": "download"}
    job = from_wire(wire(sync={"before": [block]}), "claim", DIRECTORIES, None)
    assert job.before[0].local_path == str(tmp_path / "in")


def test_what_is_saved_of_a_job_is_read_again() -> None:
    job = Job("c", "1", 2, 5.0, before=(SyncBlock("b", "p/", "/in"),), during=(SyncBlock("b", "q/", "/c", "x"),))
    assert from_saved(json.loads(json.dumps(to_saved(job)))) == job


@pytest.mark.parametrize(
    ("local_path", "shown"),
    [("sck", "sck/d/x"), ("./sck/", "sck/d/x"), ("a/../sck", "sck/d/x"), ("/abs/sck", "/abs/sck/d/x")],
)
def test_a_path_is_shown_in_the_directory_as_the_job_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local_path: str, shown: str
) -> None:
    monkeypatch.chdir(tmp_path)
    block = {"bucket": "b", "prefix": "p", "local_path": local_path}
    job = from_wire(wire(sync={"during": [block]}), "claim", DIRECTORIES, None)
    moving = TransfersUnderWay("claim")
    moving.job = from_saved(to_saved(job))
    moving.uploads([f"{job.during[0].local_path}/d/x", "/elsewhere/x"])
    told = moving.changed()
    assert told and set(told.uploads) == {shown, "/elsewhere/x"}


def test_a_job_that_an_older_release_saved_is_read() -> None:
    saved = json.loads(json.dumps(to_saved(Job("c", "1", before=(SyncBlock("b", "p/", "/in"),)))))
    del saved["before"][0]["named"]
    assert from_saved(saved).as_named("/in/x") == "/in/x"


ASKED = {"keep_output": 65536, "stall_after": 60, "on_stall": "fail", "checkpoint_signal": "USR1"}


@pytest.mark.parametrize(
    ("speaks", "fields", "steering"),
    [
        (("output", "progress", "steer"), ASKED, Steering(65536, 60.0, "fail", "USR1")),
        ((), ASKED, Steering(on_stall="fail")),
        (("output",), ASKED, Steering(65536, on_stall="fail")),
        (
            ("output", "progress", "steer"),
            {"keep_output": True, "stall_after": "1", "on_stall": [], "checkpoint_signal": "KILL"},
            Steering(),
        ),
        (("output", "progress", "steer"), {"keep_output": -1, "stall_after": 0, "on_stall": None}, Steering()),
    ],
)
def test_what_the_job_asks_for_counts_where_the_worker_can_do_it(
    speaks: tuple[str, ...], fields: dict[str, Any], steering: Steering
) -> None:
    assert from_wire(wire(**fields), "claim", DIRECTORIES, 1, speaks).steering == steering


@pytest.mark.parametrize(
    ("listed", "names"), [(["A", "B"], ("A", "B")), (None, ()), ("A", ()), ([1, "A"], ("A",))]
)
def test_the_names_of_secrets_come_with_the_claim_and_are_not_saved(listed: Any, names: tuple[str, ...]) -> None:
    job = from_wire(wire(secrets=listed), "claim", DIRECTORIES, 1)
    assert job.secrets == names and "secrets" not in to_saved(job)


def test_a_job_that_is_steered_is_saved_as_the_release_before_reads_it() -> None:
    """What the worker speaks is saved beside it, and the rest is recalled."""
    job = from_wire(wire(**ASKED), "claim", DIRECTORIES, 1, ("steer", "phase"))
    assert set(to_saved(job)) == set(to_saved(Job("claim", "1")))
    again = from_saved(json.loads(json.dumps(to_saved(job))))
    assert (again.speaks, again.steering) == ((), Steering())
