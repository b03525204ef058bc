"""The worker's pure decisions as tables."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker import config, logs
from kelpie_worker.checkpoints.plan import commit_order, commit_steps
from kelpie_worker.checkpoints.tracked_files import Ledger
from kelpie_worker.command.process import command_environment
from kelpie_worker.config import LegacyDirectories
from kelpie_worker.coordinator.client import _presentable
from kelpie_worker.job import Job, SyncBlock, from_saved, from_wire, to_saved
from kelpie_worker.lease import safe_until
from kelpie_worker.messages import Download, Flush, Refused, Troubled, Watch
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.s3.errors import Misconfigured, StorageRefused, StorageUnreachable
from kelpie_worker.state_file import StateFile, StateFileInUse
from kelpie_worker.sync.download import landing_path
from kelpie_worker.sync.failures import answer_to
from kelpie_worker.transfer.compression import gzipped
from kelpie_worker.transfer.two_phase_upload import PART_SIZE, part_size
from kelpie_worker.workspace.directories import why_not_to_wipe, wipe
from kelpie_worker.workspace.file_version import Signature
from kelpie_worker.workspace.pattern import matcher
from kelpie_worker.workspace.record import DirectoryRecord
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.set_aside import moved_path, set_aside

DIRECTORIES = LegacyDirectories("/input", "/checkpoint", "/output")
NEXT_CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"
SETTINGS = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}

# --- time -----------------------------------------------------------------------------------------------


@given(st.floats(0, 1e9), st.floats(1, 86_400))
def test_a_lease_is_safe_for_longer_than_one_interval_and_shorter_than_two(sent: float, interval: float) -> None:
    assert sent + interval < safe_until(sent, interval) < sent + 2 * interval


# --- settings -------------------------------------------------------------------------------------------


def test_no_log_line_holds_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(config.load(SETTINGS | {"KELPIE_API_KEY": "canary"}))
    logs.info("something", detail="the key is canary")
    line = json.loads(capfd.readouterr().err)
    assert line["detail"] == "the key is ***"


def test_a_sentence_for_the_server_is_short_and_readable_and_holds_no_secret() -> None:
    logs.configure(config.load(SETTINGS | {"KELPIE_API_KEY": "canary"}))
    assert _presentable("canary: 'a\udcff\0'" + "x" * 2000) == ("***: 'a?\ufffd'" + "x" * 2000)[:1000]


# --- jobs on the wire -----------------------------------------------------------------------------------


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


# --- keys and paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a", "/in/a"),
        ("a/b", "/in/a/b"),
        ("a//b", "/in/a/b"),
        ("/abs", "/in/abs"),
        ("./a", "/in/a"),
        ("a..b", "/in/a..b"),
        ("../x", None),
        ("a/../../x", None),
        ("a/../b", None),
        ("..", None),
        ("", None),
        ("/", None),
        ("a\0b", None),
    ],
)
def test_where_a_key_lands(key: str, path: str | None) -> None:
    assert landing_path("/in", key) == path


@given(st.text())
def test_no_key_lands_outside(key: str) -> None:
    path = landing_path("/in", key)
    assert path is None or os.path.normpath(path).startswith("/in/")


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/sub/..", "{link}"])
@pytest.mark.parametrize("precious", ["root", "home", "cwd", "above_cwd", "state", "program"])
def test_what_is_precious_is_never_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, precious: str
) -> None:
    for name in ("home", "work/cwd", "state"):
        (tmp_path / name).mkdir(parents=True)
    state_file = tmp_path / "state" / "kelpie-state.json"
    sentinel = tmp_path / "work" / "cwd" / "sentinel"
    sentinel.touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work" / "cwd")
    directory = {
        "root": Path("/"),
        "home": tmp_path / "home",
        "cwd": tmp_path / "work/cwd",
        "above_cwd": tmp_path / "work",
        "state": tmp_path / "state",
        "program": Path(logs.__file__).parent,
    }[precious]
    (tmp_path / "link").symlink_to(directory)
    spelled = spelling.format(directory, link=tmp_path / "link")
    assert why_not_to_wipe(spelled, str(state_file))
    wipe(Job("c", "1", before=(SyncBlock("b", "", spelled),)), str(state_file), DirectoryRecord())
    assert sentinel.exists()


def test_wiping_empties_the_directory_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside, directory = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    (outside / "kept").touch()
    (directory / "deep").mkdir(parents=True)
    (directory / "deep/file").touch()
    (directory / "link").symlink_to(outside)
    wipe(Job("c", "1", before=(SyncBlock("b", "", str(directory)),)), str(tmp_path / "state"), DirectoryRecord())
    assert list(directory.iterdir()) == [] and (outside / "kept").exists()


def test_outputs_are_set_aside_once_however_many_blocks_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep/file").write_text("1")
    blocks = tuple(SyncBlock("b", "", str(path)) for path in (out, out, out / "deep", tmp_path / "missing"))
    job = Job("c", "1", after=blocks)
    aside = set_aside(job, str(tmp_path / "state"), DirectoryRecord())
    assert set_aside(job, str(tmp_path / "state"), DirectoryRecord()) == aside  # repeated after a crash
    assert list(out.iterdir()) == []
    assert Path(moved_path(str(out / "deep"), aside), "file").read_text() == "1"


# --- scans ----------------------------------------------------------------------------------------------


def test_a_scan_finds_files_at_any_depth_and_nothing_that_is_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep/er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c", ".kelpie-0123456789abcdef~part", "state"):
        (root / name).touch()
    (tmp_path / "outside").touch()
    (root / "out-link").symlink_to(tmp_path / "outside")
    (root / "in-link").symlink_to("a")
    (root / "loop").symlink_to(root)
    (root / "dangling").symlink_to("nowhere")
    (root / "latest").symlink_to("deep")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).touch()
    (root / "d" / ("e" * 200)).mkdir(parents=True)
    found = Scanner(str(root), lambda name: True, frozenset({str(root / "state")})).scan()
    assert sorted(found) == ["a", "deep/b", "deep/er/c", "in-link", "latest/b", "latest/er/c"]


def test_a_missing_directory_is_empty(tmp_path: Path) -> None:
    assert Scanner(str(tmp_path / "missing"), lambda name: True, frozenset()).scan() == {}


def test_a_pattern_is_ecmascripts_and_not_pythons() -> None:
    assert matcher(r"^(?<name>[^]+)\.bin$")("model.bin")
    assert not matcher(r"\Z")("anything")
    with pytest.raises(ValueError, match="does not compile"):
        matcher("(?P<name>x)")


def test_a_pattern_searches_and_a_wrong_one_is_named() -> None:
    assert matcher(None)("anything")
    assert matcher(r"\.pt$")("deep/model.pt") and not matcher(r"\.pt$")("model.pt.tmp")
    with pytest.raises(ValueError, match="does not compile"):
        matcher("(")


# --- generations ----------------------------------------------------------------------------------------


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
    ledger = Ledger(had=had, previous=previous)
    assert ledger.due_for_deletion({path: signature(1) for path in now}, final) == due


@given(st.integers(0, 5 * 1024**4))
def test_any_file_fits_into_the_parts_that_s3_allows(size: int) -> None:
    part = part_size(size)
    assert part >= PART_SIZE and part % (1024 * 1024) == 0 and -(-size // part) <= 10_000


@given(st.lists(st.binary(max_size=2000)), st.integers(10, 500))
def test_compressed_blocks_are_equal_in_size_and_unpack_to_the_content(content: list[bytes], size: int) -> None:
    blocks = list(gzipped(iter(content), size))
    assert all(len(block) == size for block in blocks[:-1])
    assert gzip.decompress(b"".join(blocks)) == b"".join(content)


# --- the command's environment --------------------------------------------------------------------------


def test_the_job_overrides_the_container_and_kelpie_both() -> None:
    job = Job("c", "1", environment={"A": "job", "INPUT_DIR": "job"})
    environment = command_environment(job, config.load(SETTINGS), {"A": "container", "B": "container"})
    assert (environment["A"], environment["B"], environment["INPUT_DIR"]) == ("job", "container", "/input")
    assert environment["KELPIE_JOB_ID"] == "1"


# --- the state file -------------------------------------------------------------------------------------


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
    assert store.state.jobs["c2"].phase is Phase.RUNNING and store.state.jobs["c2"].job.attempt == 3
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


# --- what an error means --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "command", "answer"),
    [
        (StorageUnreachable("x"), Download, Troubled("c", "storage", "x")),
        (StorageRefused("x"), Download, Refused("c", "download", "x")),
        (StorageRefused("x"), Flush, Refused("c", "upload", "x")),
        (Misconfigured("x"), Download, Troubled("c", "configuration", "x")),
        (OSError(errno.ENOSPC, "full"), Download, Troubled("c", "disk_full", "[Errno 28] full")),
        (PermissionError(13, "no"), Download, Troubled("c", "disk", "PermissionError: [Errno 13] no")),
        (ValueError("x"), Watch, Refused("c", "pattern", "x")),
        (RuntimeError("x"), Flush, Troubled("c", "internal", "RuntimeError: x")),
    ],
)
def test_an_error_fails_the_attempt_or_gives_it_back(
    error: Exception, command: type[Download | Flush | Watch], answer: Refused | Troubled
) -> None:
    assert answer_to(error, command(Job("c", "1"))) == answer
