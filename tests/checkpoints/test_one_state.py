"""What is called whole was in the directory together, and a directory that never rests becomes whole, too."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.checkpoints import observer
from kelpie_worker.workspace.file_version import PinnedFile, Snapshot, signature_of
from kelpie_worker.workspace.scan import Scanner
from local_stack.s3 import S3Server
from tests.checkpoints.watched import Watched, keys_of
from tests.doubles.faulty_proxy import FaultyProxy


def whole(watched: Watched) -> set[str]:
    return {stored.key.removeprefix("c/") for stored in watched.checkpoints.whole}


def before_reading(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]
) -> None:
    """Have the command do something each time before a file whose path ends so is read."""
    prepare = watched.transfer.prepare

    def act_first(path: str, *version: Any) -> Any:
        if path.endswith(name):
            action()
        return prepare(path, *version)

    monkeypatch.setattr(watched.transfer, "prepare", act_first)


def test_a_pointer_that_became_longer_does_not_name_what_it_named(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("step9/weights", b"9")
    watched.write("step10/weights", b"10")
    (watched.folder / "latest").write_bytes(b"step9")

    def go_on() -> None:
        (watched.folder / "latest").write_bytes(b"step10")
        shutil.rmtree(watched.folder / "step9")

    before_reading(watched, monkeypatch, "step9/weights", go_on)
    assert not watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {} and watched.checkpoints.whole == ()
    assert watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {"step10/weights": b"10", "latest": b"step10"}
    assert whole(watched) == {"step10/weights", "latest"}


def test_a_log_that_grows_while_an_old_checkpoint_is_removed_spoils_nothing(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("log", b"1")
    assert watched.checkpoints.cycle(final=False)
    watched.write("step1/weights", b"1")
    watched.write("step2/weights", b"2")
    (watched.folder / "new-log").write_bytes(b"1")

    def go_on() -> None:
        for name in ("log", "new-log"):
            with (watched.folder / name).open("ab") as log:
                log.write(b"2")
        shutil.rmtree(watched.folder / "step1")

    before_reading(watched, monkeypatch, "step1/weights", go_on)
    assert watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {"log": b"1", "new-log": b"1", "step2/weights": b"2"}
    assert whole(watched) == {"log", "new-log", "step2/weights"}


@pytest.mark.parametrize("between", ["/", "-"], ids=["a directory for each step", "a name for each step"])
def test_checkpoints_that_are_removed_before_they_are_read_become_whole_and_old_ones_go(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    steps = itertools.count(1)

    def save() -> None:
        """Only the newest checkpoint is kept."""
        step = next(steps)
        for name in ("optimizer", "weights"):
            watched.write(f"step{step}{between}{name}", b"%d" % step)
        watched.write("latest", b"%d" % step)
        for name in ("optimizer", "weights"):
            (watched.folder / f"step{step - 1}{between}{name}").unlink(missing_ok=True)
        if between == "/":
            shutil.rmtree(watched.folder / f"step{step - 1}", ignore_errors=True)

    save()
    assert watched.checkpoints.cycle(final=False)
    save()
    before_reading(watched, monkeypatch, "optimizer", save)  # the weights have been read by then
    reported = []
    for _ in range(8):
        watched.checkpoints.cycle(final=False)
        there = keys_of(s3, bucket)
        latest = int(there["latest"])
        assert there[f"step{latest}{between}optimizer"] == there[f"step{latest}{between}weights"] == b"%d" % latest
        assert len(there) <= 5, "the latest, the one before, and what names them"
        reported.append(whole(watched))
    assert len(set(map(frozenset, reported))) >= 6, "all but what was removed before it was known to be"


def test_what_one_state_was_not_found_of_is_lag_until_it_is_reported(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write("step1/weights", b"1")
    watched.write("latest", b"step1")
    scan, misses = Scanner.scan, itertools.cycle([{"step1/weights"}, set()])

    def scan_too_early(scanner: Scanner) -> Snapshot:
        found, missed = scan(scanner), next(misses)
        return {path: version for path, version in found.items() if path not in missed}

    monkeypatch.setattr(observer, "_LONGEST_TRY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(Scanner, "scan", scan_too_early)
        watched.checkpoints.cycle(final=False)
    assert watched.checkpoints.whole == () and watched.checkpoints.behind_since is not None
    while not watched.checkpoints.cycle(final=False):
        pass
    assert watched.checkpoints.cycle(final=False)
    assert watched.checkpoints.whole and watched.checkpoints.behind_since is None


def test_a_file_that_is_written_anew_and_longer_each_time_is_not_called_whole_by_its_beginning(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, lengths = watched.folder / "history.json", itertools.count(1)

    def rewrite() -> None:
        history.write_text(str(list(range(next(lengths)))))

    rewrite()
    opened = PinnedFile.of

    def of(path: str, *version: Any) -> PinnedFile:
        rewrite()
        return opened(path, *version)

    with monkeypatch.context() as patch:
        patch.setattr(PinnedFile, "of", of)
        for _ in range(5):
            watched.checkpoints.cycle(final=False)
            assert watched.checkpoints.whole == () or keys_of(s3, bucket)["history.json"].endswith(b"]")
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"history.json": history.read_bytes()}
    assert whole(watched) == {"history.json"}


def test_an_index_that_grows_during_a_scan_names_nothing_that_the_scan_did_not_find(
    watched: Watched, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched.folder / "index").write_bytes(b"step0")
    watched.write("step0", b"0")
    assert watched.checkpoints.cycle(final=False)
    scan, numbers = Scanner.scan, itertools.count(1)

    def scan_and_save(scanner: Scanner) -> Snapshot:
        found, number = scan(scanner), next(numbers)
        if number % 2:  # else no two scans would find the same files
            watched.write(f"step{number}", b"1")
            with (watched.folder / "index").open("ab") as index:
                index.write(b" step%d" % number)
            found["index"] = signature_of((watched.folder / "index").stat())  # the scan came to it last
        return found

    monkeypatch.setattr(Scanner, "scan", scan_and_save)
    before, reported = watched.checkpoints.whole, 0
    for _ in range(3):
        watched.checkpoints.cycle(final=False)
        there = keys_of(s3, bucket)
        if watched.checkpoints.whole != before:
            reported, before = reported + 1, watched.checkpoints.whole
            assert there.keys() >= set(there["index"].decode().split())
    assert reported


def test_what_is_whole_once_a_file_that_was_left_out_is_gone_is_reported(
    aws: None, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    watched = Watched(tmp_path / "checkpoint", bucket, mirrors_deletes=False)
    watched.write("refused", b"r")
    watched.write("weights", b"w")
    faulty.fault = lambda method, path: "403" if "/c/refused" in path and method == "PUT" else None
    watched.checkpoints.cycle(final=False)
    assert keys_of(s3, bucket) == {"weights": b"w"} and watched.checkpoints.whole == ()
    (watched.folder / "refused").unlink()
    assert watched.checkpoints.cycle(final=True)
    assert whole(watched) == {"weights"}
    watched.lease.cancel()
    watched.transfer.close()


def test_what_the_version_in_the_bucket_of_a_file_that_is_being_rewritten_may_name_is_not_deleted(
    watched: Watched, s3: S3Server, bucket: str
) -> None:
    (watched.folder / "database").write_bytes(b"old")
    watched.write("old", b"o")
    assert watched.checkpoints.cycle(final=False)
    watched.write("new", b"n")
    (watched.folder / "old").unlink()
    watched.checkpoints.stability.longest_wait = 0.2
    with (watched.folder / "database").open("r+b", buffering=0) as database:
        for _ in range(6):
            os.pwrite(database.fileno(), b"new", 0)
            watched.checkpoints.cycle(final=False)
        assert keys_of(s3, bucket) == {"database": b"old", "old": b"o", "new": b"n"}
    watched.checkpoints.finish()
    assert keys_of(s3, bucket) == {"database": b"new", "new": b"n"}
