"""Where files go: keys and paths, compression, patterns, types of content, what is never wiped."""

from __future__ import annotations

import gzip
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.contract_worker.conftest import Pair
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import block, finished, shell

LISTING = "find in -type f | sort | tr '\\n' ' ' > listing"


def ran(pair: Pair, script: str, **fields: Any) -> str:
    """The one report of a job that runs a shell's script."""
    return finished(pair.api, pair.api.submit(**shell(script), **fields))[0]


def listing(pair: Pair) -> list[str]:
    return (pair.worker.folder / "listing").read_text().split()


@pytest.mark.parametrize("prefix", ["in", "in/"])
def test_a_prefix_is_a_folder_with_or_without_its_slash(
    original: Pair, s3: S3Server, bucket: str, prefix: str
) -> None:
    s3.put(bucket, "in/data", b"1")
    s3.put(bucket, "inside/other", b"2")
    blocks = {"before": [block(bucket, "in", prefix=prefix)], "after": [block(bucket, "out", prefix="o")]}
    assert ran(original, f"{LISTING}; echo 1 > out/x", sync=blocks) == "completed"
    assert listing(original) == ["in/data"]
    assert s3.keys(bucket, "o") == ["o/x"]


def test_the_markers_of_folders_become_no_files(own: Pair, s3: S3Server, bucket: str) -> None:
    for key in ("in/", "in/sub/", "in/sub/data"):
        s3.put(bucket, key, b"" if key.endswith("/") else b"1")
    assert ran(own, LISTING, sync={"before": [block(bucket, "in")]}) == "completed"
    assert listing(own) == ["in/sub/data"]


def test_a_prefix_without_objects_is_an_empty_directory(own: Pair, bucket: str) -> None:
    assert ran(own, "ls -A in > listing", sync={"before": [block(bucket, "in")]}) == "completed"
    assert listing(own) == []


def test_a_job_of_the_original_without_slashes_moves_its_three_directories_deep(
    original: Pair, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "i/deep/data", b"input")
    kinds = {"input": "i", "checkpoint": "c", "output": "o"}
    legacy = {f"{kind}_bucket": bucket for kind in kinds} | {f"{kind}_prefix": p for kind, p in kinds.items()}
    script = (
        'mkdir -p "$OUTPUT_DIR/deep" "$CHECKPOINT_DIR/deep"; '
        'cp "$INPUT_DIR/deep/data" "$OUTPUT_DIR/deep/result"; echo 1 > "$CHECKPOINT_DIR/deep/state"; '
        'echo 1 > "$INPUT_DIR/new"'
    )
    assert ran(original, script, sync=None, **legacy) == "completed"
    assert s3.files(bucket, "") == {
        "i/deep/data": b"input", "o/deep/result": b"input", "c/deep/state": b"1\n",
    }  # fmt: skip


# --- gz -------------------------------------------------------------------------------------------------


def test_with_compression_only_what_ends_in_gz_is_unpacked(own: Pair, s3: S3Server, bucket: str) -> None:
    s3.put(bucket, "in/packed.gz", gzip.compress(b"1"))
    s3.put(bucket, "in/plain", b"2")
    script = f'test "$(cat in/packed in/plain)" = 12; {LISTING}'
    assert ran(own, script, sync={"before": [block(bucket, "in")]}, compression=True) == "completed"
    assert listing(own) == ["in/packed", "in/plain"]


def test_without_compression_a_key_keeps_its_gz(own: Pair, s3: S3Server, bucket: str) -> None:
    s3.put(bucket, "in/packed.gz", gzip.compress(b"1"))
    sync = {"before": [block(bucket, "in")], "after": [block(bucket, "out")]}
    assert ran(own, "cp in/packed.gz out/", sync=sync, compression=False) == "completed"
    assert gzip.decompress(s3.files(bucket, "out/")["packed.gz"]) == b"1"


def test_what_is_compressed_already_comes_back_under_its_own_name(own: Pair, s3: S3Server, bucket: str) -> None:
    up = {"during": [block(bucket, "in")]}
    assert ran(own, "echo 1 | gzip > in/a.gz", sync=up, compression=True) == "completed"
    assert s3.keys(bucket) == ["in/a.gz.gz"]
    down = {"before": [block(bucket, "in")]}
    script = f'test "$(zcat in/a.gz)" = 1; {LISTING}'
    assert ran(own, script, sync=down, compression=True) == "completed"
    assert listing(own) == ["in/a.gz"]


def test_what_only_bears_the_name_of_a_gz_stops_the_attempt(own: Pair, s3: S3Server, bucket: str) -> None:
    s3.put(bucket, "in/broken.gz", b"no gzip at all")
    job = own.api.submit(command="true", sync={"before": [block(bucket, "in")]}, compression=True)
    report, body = finished(own.api, job)
    assert (report, body["reason"]) == ("failed", "download")


# --- patterns and types ---------------------------------------------------------------------------------


def test_a_pattern_of_a_download_sees_the_whole_key_and_one_of_an_upload_the_relative_path(
    own: Pair, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "in/deep/a.txt", b"1")
    s3.put(bucket, "in/deep/a.bin", b"1")
    sync = {
        "before": [block(bucket, "in", pattern="^in/.*\\.txt$")],
        "after": [block(bucket, "out", pattern="^deep/.*\\.txt$")],
    }
    script = f"{LISTING}; mkdir out/deep; touch out/deep/b.txt out/deep/b.bin out/b.txt"
    assert ran(own, script, sync=sync) == "completed"
    assert listing(own) == ["in/deep/a.txt"]
    assert s3.keys(bucket, "out/") == ["out/deep/b.txt"]


@pytest.mark.parametrize("compression", [False, True])
def test_the_type_of_content_is_guessed_from_the_name(
    own: Pair, s3: S3Server, bucket: str, compression: bool
) -> None:
    script = "for name in a.json b.txt c.png model.pt noname; do echo 1 > out/$name; done"
    assert ran(own, script, sync={"after": [block(bucket, "out")]}, compression=compression) == "completed"
    keys = s3.keys(bucket, "out/")
    types = {key.removesuffix(".gz"): s3.content_type(bucket, key) for key in keys}
    assert all(key.endswith(".gz") is compression for key in keys)
    assert {s3.content_encoding(bucket, key) for key in keys} == {"gzip" if compression else None}
    assert types == {
        "out/a.json": "application/json", "out/b.txt": "text/plain", "out/c.png": "image/png",
        "out/model.pt": "application/octet-stream", "out/noname": types["out/noname"],
    }  # fmt: skip
    assert types["out/noname"] in ("application/octet-stream", "binary/octet-stream")


# --- during ---------------------------------------------------------------------------------------------


def test_while_the_command_runs_files_at_any_depth_go_up_and_what_it_removes_goes(
    own: Pair, s3: S3Server, bucket: str
) -> None:
    s3.put(bucket, "state/somebody-elses", b"1")
    script = (
        "mkdir -p state/a/b; echo 1 > state/a/b/one; while [ ! -e next ]; do sleep 0.02; done; "
        "rm -r next state/a; echo 2 > state/tmp; mv state/tmp state/two; "
        "while [ ! -e next ]; do sleep 0.02; done; rm next"
    )
    job = own.api.submit(**shell(script), sync={"during": [block(bucket, "state")]})
    wait_for(lambda: "state/a/b/one" in s3.keys(bucket), "the first file")
    (own.worker.folder / "next").touch()
    wait_for(lambda: "state/two" in s3.keys(bucket), "the second file")
    (own.worker.folder / "next").touch()
    assert finished(own.api, job)[0] == "completed"
    assert s3.keys(bucket, "state/") == ["state/somebody-elses", "state/two"]


def test_a_stuck_upload_delays_no_heartbeat(
    make_pair: Callable[..., Pair], faulty: FaultyProxy, bucket: str
) -> None:
    pair, stuck = make_pair(), []

    def hold(method: str, path: str) -> None:
        if method in ("PUT", "POST"):
            stuck.append(path)
            wait_for(lambda: not faulty.fault or pair.api.heartbeats(job) >= beats + 4, "heartbeats")

    job = pair.api.submit(
        **shell("echo 1 > state/x; sleep 1000"), sync={"during": [block(bucket, "state")]}, heartbeat_interval=0.3
    )
    beats = 1000
    faulty.fault = hold
    pair.worker.start(AWS_ENDPOINT_URL=faulty.url)
    wait_for(lambda: stuck, "an upload that is stuck")
    beats = pair.api.heartbeats(job)
    wait_for(lambda: pair.api.heartbeats(job) >= beats + 4, "heartbeats while it is")


def test_heartbeats_tell_for_how_long_the_bucket_has_lacked_a_change(
    make_pair: Callable[..., Pair], faulty: FaultyProxy, bucket: str
) -> None:
    pair, blocked = make_pair(), threading.Event()

    def fault(method: str, path: str) -> str | None:
        return "503" if blocked.is_set() and method in ("PUT", "POST") else None

    faulty.fault = fault
    script = "echo 1 > state/x; while [ ! -e next ]; do sleep 0.02; done; echo 2 > state/x; sleep 1000"
    job = pair.api.submit(**shell(script), sync={"during": [block(bucket, "state")]}, heartbeat_interval=0.3)
    pair.worker.start(AWS_ENDPOINT_URL=faulty.url)
    wait_for(lambda: 0 in lags(pair, job), "a heartbeat while the bucket has all")
    blocked.set()
    (pair.worker.folder / "next").touch()
    wait_for(lambda: lags(pair, job)[-1] >= 2, "heartbeats that count the seconds")
    os.kill(pair.worker.child("heartbeat"), signal.SIGKILL)
    before = len(lags(pair, job))
    wait_for(lambda: [lag for lag in lags(pair, job)[before:] if lag >= 2], "the next process to tell it too")
    blocked.clear()
    wait_for(lambda: lags(pair, job)[-1] == 0, "a heartbeat after the bucket got the change")


@pytest.mark.parametrize(
    ("extensions", "watches"), [("attempt, checkpoint", False), ("attempt", True), ("", True)]
)
def test_where_nothing_is_watched_or_nobody_asked_no_lag_is_told(
    make_pair: Callable[..., Pair], bucket: str, extensions: str, watches: bool
) -> None:
    pair = make_pair(extensions)
    sync = {"during": [block(bucket, "state")]} if watches else {}
    job = pair.api.submit(**shell("sleep 1000"), sync=sync, heartbeat_interval=0.3)
    pair.worker.start()
    wait_for(lambda: pair.api.heartbeats(job) >= 5, "heartbeats")
    assert lags(pair, job) == []


def lags(pair: Pair, job: str) -> list[int]:
    told = [call.body for call in pair.api.told(job, "heartbeat")]
    return [body["checkpoint_lag"] for body in told if "checkpoint_lag" in body]


@pytest.mark.parametrize("retries", [0, 2])
def test_max_retries_bounds_the_repetitions_of_one_call(
    make_pair: Callable[..., Pair], faulty: FaultyProxy, s3: S3Server, bucket: str, retries: int
) -> None:
    s3.put(bucket, "in/data", b"1")
    asked: list[str] = []

    def refuse(method: str, path: str) -> str | None:
        if method == "GET" and "in/data" in path:
            asked.append(path)
            return "503"
        return None

    faulty.fault = refuse
    pair = make_pair()
    job = pair.api.submit(command="true", sync={"before": [block(bucket, "in")]})
    pair.worker.start(AWS_ENDPOINT_URL=faulty.url, MAX_RETRIES=str(retries))
    assert finished(pair.api, job)[0] == "released"
    assert len(asked) == retries + 1


# --- wiping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "when"),
    [
        (".", "before"), (".", "after"), ("", "before"), ("out/..", "before"), ("/", "before"),
        ("home", "before"), ("home", "during"),
    ],
)  # fmt: skip
def test_what_must_stay_is_not_wiped_and_that_is_said(own: Pair, bucket: str, place: str, when: str) -> None:
    keep = own.worker.folder / "home" / "keep"
    keep.parent.mkdir(exist_ok=True)
    keep.write_text("1")
    job = own.api.submit(command="true", sync={when: [block(bucket, "x", local_path=place)]})
    assert finished(own.api, job)[0] == "completed"
    assert own.worker.wait_for("wipe_refused", job_id=job)["level"] == "warn"
    own.worker.wait_for("wiped", job_id=job)
    assert keep.read_text() == "1"
    assert own.worker.state()["jobs"][-1]["id"] == job
