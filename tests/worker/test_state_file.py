"""The state file: what was saved is read again, and rubbish in it is set aside."""

from __future__ import annotations

import copy
import errno
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import Ending, Verdict
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.state_file import StateFile, StateFileInUse, WorkerState, is_same_place
from kelpie_worker.workspace.paths import own_name

NEXT_CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
BLOCK = SyncBlock("b", "p/", "/out", "x$")
JOB = Job(CLAIM, "job", 3, 5.0, before=(BLOCK,), during=(BLOCK,), after=(BLOCK,))
ASIDE = f"/{own_name('aside', CLAIM)}/0"
COMPLETED = Ending(Verdict.COMPLETED, None, 0)
P = Phase


Path_ = tuple[str | int, ...]
IN_HAND: Path_ = ("jobs", 0, "kelpie")
SAVED_JOB: Path_ = (*IN_HAND, "job")
SAVED_BLOCK: Path_ = (*SAVED_JOB, "after", 0)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The state file of a worker that uploads the outputs of a job, and what it holds."""
    path = tmp_path / "kelpie-state.json"
    store = StateFile(str(path))
    store.state.claim_id = CLAIM
    store.state.put(JobState(JOB, P.UPLOADING, COMPLETED, (("/out", ASIDE),)))
    store.save()
    store.close()
    return path, json.loads(path.read_text())


def reread(path: Path, content: dict[str, Any]) -> WorkerState:
    path.write_text(json.dumps(content))
    store = StateFile(str(path))
    store.close()
    return store.state


def test_what_was_saved_is_taken_up_again(saved: tuple[Path, dict[str, Any]]) -> None:
    state = reread(*saved)
    assert {claim_id: held.state for claim_id, held in state.jobs.items()} == {
        CLAIM: JobState(JOB, P.UPLOADING, COMPLETED, (("/out", ASIDE),))
    }
    assert state.claim_id == CLAIM and not list(saved[0].parent.glob("*.damaged-*"))


HERE: dict[str, Any] = {"lock": [11, 1_700_000_000_123_456_789], "folder": [22, "state"], "disk": 33}
AT_A_SECOND = [11, 1_700_000_000_000_000_000]


@pytest.mark.parametrize(
    ("saved_at", "here", "is_same"),
    [
        (HERE, HERE, True),
        (HERE, HERE | {"lock": [12, HERE["lock"][1]], "folder": [23, "state"], "disk": 34}, True),
        (HERE, HERE | {"lock": [12, 1]}, True),
        (HERE, HERE | {"lock": [11, 1], "folder": [23, "state"]}, True),
        (HERE, HERE | {"lock": [12, 1], "folder": [23, "state"]}, False),
        (HERE, HERE | {"lock": [12, 1], "folder": [22, "other"]}, False),
        (HERE, HERE | {"lock": [11, 1], "disk": 34}, False),
        (HERE | {"disk": None}, HERE | {"lock": [11, 1], "disk": None}, False),
        (HERE | {"lock": AT_A_SECOND}, HERE | {"lock": [12, *AT_A_SECOND[1:]], "disk": 34}, False),
        (HERE | {"lock": AT_A_SECOND}, HERE | {"lock": AT_A_SECOND, "disk": 34}, True),
        ({"lock": [11, 1], "folder": [1, "x"]}, HERE, True),
        (None, HERE, True),
    ],
    ids=[
        "nothing changed",
        "inodes are numbered anew",
        "the lock was made anew",
        "the folder was made anew",
        "a copy",
        "a copy under another name",
        "a copy on another disk, with the same inode numbers",
        "on a disk that does not say which it is",
        "a copy of a time in whole seconds",
        "the lock, where times are whole seconds",
        "of an older release",
        "of a still older release",
    ],
)
def test_a_file_counts_as_saved_here_if_a_fact_holds_that_no_copy_shares(
    saved_at: dict[str, Any] | None, here: dict[str, Any], is_same: bool
) -> None:
    assert is_same_place(saved_at, here) is is_same


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "kelpie-state.json"
    path.write_text("")
    path.chmod(0o644)  # as an earlier release made it
    path.with_name("kelpie-state.json.tmp").write_text("of a crash")
    store = StateFile(str(path))
    store.save()
    store.close()
    assert {stat.S_IMODE(file.stat().st_mode) for file in (path, path.with_name(f"{path.name}.lock"))} == {0o600}


def test_what_a_command_printed_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "kelpie-state.json"
    store = StateFile(str(path))
    store.state.put(JobState(JOB, P.REPORTING, replace(COMPLETED, output="swordfish")))
    store.save()
    store.close()
    assert "swordfish" not in path.read_text()
    assert reread(path, json.loads(path.read_text())).jobs[CLAIM].state.outcome == COMPLETED


@pytest.mark.parametrize(
    ("place", "rubbish"),
    [
        (("machine_id",), 5),
        (("machine_id",), "\ud800"),
        (("claim_id",), "nonsense"),
        (("claim_id",), 5),
        (("claim_id",), ""),
        (("claim_id",), "{" + CLAIM + "}"),
        (("jobs",), {"a": 1}),
        (("jobs",), [3]),
        (("jobs", 0, "start"), None),
        (("jobs", 0, "end"), 3),
        (IN_HAND, None),
        ((*IN_HAND, "phase"), "dancing"),
        ((*IN_HAND, "phase"), "done"),
        ((*IN_HAND, "phase"), ["running"]),
        ((*IN_HAND, "outcome"), None),
        ((*IN_HAND, "outcome"), {}),
        ((*IN_HAND, "outcome", "verdict"), "maybe"),
        ((*IN_HAND, "outcome", "exit_code"), "0"),
        ((*IN_HAND, "outcome", "reason"), 1),
        ((*IN_HAND, "aside"), None),
        ((*IN_HAND, "aside"), ["ab"]),
        ((*IN_HAND, "aside"), [["/out", "aside"]]),
        ((*IN_HAND, "aside"), [["/out", 3]]),
        ((*IN_HAND, "aside"), [["/out", "/home/me"]]),
        ((*IN_HAND, "aside"), [["/out", f"/{own_name('aside', 'of another attempt')}/0"]]),
        ((*IN_HAND, "aside"), [["/out", f"/home/me{ASIDE}/../.."]]),
        ((*IN_HAND, "aside"), [["/out", f"/home{ASIDE}/../../me{ASIDE}"]]),
        ((*IN_HAND, "begun"), -1),
        ((*SAVED_JOB, "claim_id"), None),
        ((*SAVED_JOB, "claim_id"), "../../etc"),
        ((*SAVED_JOB, "id"), ""),
        ((*SAVED_JOB, "id"), 7),
        ((*SAVED_JOB, "attempt"), "1"),
        ((*SAVED_JOB, "attempt"), True),
        ((*SAVED_JOB, "heartbeat_interval"), "abc"),
        ((*SAVED_JOB, "heartbeat_interval"), None),
        ((*SAVED_JOB, "heartbeat_interval"), 0),
        ((*SAVED_JOB, "heartbeat_interval"), float("nan")),
        ((*SAVED_JOB, "heartbeat_interval"), 1e300),
        ((*SAVED_JOB, "num_failures"), -1),
        ((*SAVED_JOB, "compression"), "yes"),
        ((*SAVED_JOB, "after"), "out"),
        ((*SAVED_JOB, "after"), [{"bucket": "b"}]),
        ((*SAVED_JOB, "command"), "from elsewhere"),
        ((*SAVED_BLOCK, "bucket"), 5),
        ((*SAVED_BLOCK, "prefix"), None),
        ((*SAVED_BLOCK, "local_path"), "relative"),
        ((*SAVED_BLOCK, "pattern"), 1),
        ((*SAVED_BLOCK, "mirrors_deletes"), 1),
    ],
)
def test_values_that_no_worker_saved_are_set_aside(
    saved: tuple[Path, dict[str, Any]], place: Path_, rubbish: Any
) -> None:
    path, content = saved
    damaged = copy.deepcopy(content)
    part: Any = damaged
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = rubbish

    state = reread(path, damaged)

    assert state.jobs == {} and state.claim_id is None
    assert json.loads(path.with_name(path.name + ".damaged-1").read_text()).keys() == content.keys()


@pytest.mark.parametrize("missing", ["pattern", "mirrors_deletes", "prefix"])
def test_a_block_without_one_of_its_fields_is_set_aside(saved: tuple[Path, dict[str, Any]], missing: str) -> None:
    path, content = saved
    del content["jobs"][0]["kelpie"]["job"]["during"][0][missing]
    assert reread(path, content).jobs == {}


def test_a_state_file_that_cannot_be_written_is_named_and_stays_as_it_was(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, content = saved
    store = StateFile(str(path))
    path.with_name(path.name + ".tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="the state file cannot be written: No space left on device") as caught:
        store.save()
    store.close()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert json.loads(path.read_text()) == content and not path.with_name(path.name + ".tmp").is_symlink()


# --- leases ---------------------------------------------------------------------------------------------


@pytest.fixture
def saved_state(tmp_path: Path) -> Path:
    path = tmp_path / "kelpie-state.json"
    store = StateFile(str(path))
    store.state.claim_id = NEXT_CLAIM
    store.state.put(JobState(Job("c1", "done"), Phase.DONE))
    store.state.put(JobState(Job("c2", "in hand", 3, after=(SyncBlock("b", "p/", "/out"),)), Phase.RUNNING))
    store.save()
    store.close()
    return path


def test_the_state_file_has_the_original_keys_and_is_read_again(saved_state: Path) -> None:
    content = json.loads(saved_state.read_text())
    keys = {"id", "status", "start", "exitTime", "exitCode", "end", "activeUploads", "activeDownloads"}
    assert content["start"] and all(keys <= set(job) for job in content["jobs"])
    assert [job["status"] for job in content["jobs"]] == ["failed", "running"]
    store = StateFile(str(saved_state))
    assert store.state.jobs["c2"].state.phase is Phase.RUNNING
    assert store.state.jobs["c2"].state.job.attempt == 3
    assert (store.state.claim_id, store.state.machine_id) == (NEXT_CLAIM, content["machine_id"])
    store.close()


def test_a_state_file_cut_anywhere_is_set_aside(saved_state: Path) -> None:
    whole = saved_state.read_bytes()
    for length in range(len(whole)):
        saved_state.write_bytes(whole[:length])
        store = StateFile(str(saved_state))
        store.close()
        assert store.state.jobs == {}, length
        aside = saved_state.with_name(saved_state.name + ".damaged-1")
        assert aside.read_bytes() == whole[:length]
        aside.unlink()


@pytest.mark.parametrize("rubbish", [b"\xff\xfe", b"[]", b"null", b'{"jobs": 3}', b"[" * 100_000, b"{}"])
def test_rubbish_is_set_aside_under_a_free_number(saved_state: Path, rubbish: bytes) -> None:
    saved_state.with_name(saved_state.name + ".damaged-1").touch()
    saved_state.write_bytes(rubbish)
    StateFile(str(saved_state)).close()
    assert saved_state.with_name(saved_state.name + ".damaged-2").read_bytes() == rubbish


def test_a_state_file_has_one_worker(saved_state: Path) -> None:
    store = StateFile(str(saved_state))
    with pytest.raises(StateFileInUse, match="KELPIE_STATE_FILE"):
        StateFile(str(saved_state))
    store.close()
