"""Buckets and storage that make it hard to bring what the job means: what lands is whole, and the right object."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest

from kelpie_worker.job import CheckpointStatus, Job, StoredObject, SyncBlock
from kelpie_worker.messages import Download, Refused, Troubled
from kelpie_worker.s3 import get_object
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import StorageUnreachable
from kelpie_worker.s3.objects import RemoteFile, Target
from kelpie_worker.sync.download import ListedAndGone, PathConflict, PlannedDownload, download, one_for_each_path
from kelpie_worker.sync.failures import answer_to
from kelpie_worker.transfer import compression
from kelpie_worker.transfer.compression import Bomb, NotPacked
from kelpie_worker.workspace.directories import own_files
from kelpie_worker.workspace.paths import own_name
from local_stack.s3 import S3Server
from tests.doubles.faulty_proxy import FaultyProxy
from tests.doubles.leases import held

WHOLE = gzip.compress(b"x" * 1000)


@pytest.fixture
def stored(faulty: FaultyProxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": faulty.url}.items():
        monkeypatch.setenv(name, value)
    return Storage(SharedClient("us-east-1"), held(), max_retries=1)


def job_from(bucket: str, folder: Path, *checkpoint: StoredObject, compression: bool = False) -> Job:
    block = SyncBlock(bucket, "ck/", str(folder))
    return Job("claim", "job", compression=compression, before=(block,), during=(block,), checkpoint=checkpoint)


def reported(s3: S3Server, bucket: str, key: str) -> StoredObject:
    return StoredObject(bucket, key, len(s3.get(bucket, key)), s3.etags(bucket)[key])


# --- two keys for one file ------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["state", "state.gz"])
def test_of_two_keys_for_one_file_the_one_of_the_manifest_is_brought(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.put(bucket, "ck/state.gz", gzip.compress(b"state.gz"))
    s3.put(bucket, "ck/state", b"state" * 400_000)
    job = job_from(bucket, tmp_path, reported(s3, bucket, f"ck/{named}"), compression=True)
    brought = download(job, stored, lambda paths: None)
    content = (tmp_path / "state").read_bytes()
    assert content == (b"state.gz" if named == "state.gz" else b"state" * 400_000)
    assert [stored.key for stored in brought.objects.values()] == [f"ck/{named}"]
    assert capfd.readouterr().err.count('"key_skipped"') == 1


@pytest.mark.parametrize(
    ("chosen", "other", "why"),
    [
        (("ck/a", 2.0), ("ck/a.gz", 1.0), "it is younger"),
        (("ck/a.gz", 2.0), ("ck/a", 1.0), "it is younger"),
        (("ck/a.gz", 1.0), ("ck/a", 1.0), "it is what this job would send"),
        (("ck/a/b", 2.0), ("ck/a//b", 1.0), "it is younger"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_without_a_manifest_it_is_the_younger_and_else_the_compressed_one(
    chosen: tuple[str, float], other: tuple[str, float], why: str, turned: bool
) -> None:
    landings = [
        PlannedDownload(RemoteFile(key, 1, modified=modified), "/ck/a", key.endswith(".gz"))
        for key, modified in (chosen, other)
    ]
    job = Job("claim", "job", compression=True)
    found = one_for_each_path(landings[::-1] if turned else landings, job, SyncBlock("b", "ck/", "/ck"))
    assert [landing.remote.key for landing in found] == [chosen[0]], why


# --- a file and a directory of one name -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "brought"),
    [
        (("ck/state",), ["state"]),  # the holder died before it could report what came in its place
        (("ck/state/a", "ck/state/b"), ["state/a", "state/b"]),  # or before it deleted the old one
    ],
)
def test_what_a_command_replaced_by_a_directory_stops_no_resume(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, named: tuple[str, ...], brought: list[str]
) -> None:
    for key in ("ck/state", "ck/state/a", "ck/state/b", "ck/other"):
        s3.put(bucket, key, key.encode())
    job = job_from(bucket, tmp_path, *(reported(s3, bucket, key) for key in (*named, "ck/other")))
    download(job, stored, lambda paths: None)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert [str(path.relative_to(tmp_path)) for path in files] == ["other", *brought]


def test_inputs_that_cannot_be_on_one_disk_stop_the_attempt(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    for key in ("ck/state", "ck/state/a"):
        s3.put(bucket, key, key.encode())
    with pytest.raises(PathConflict, match="ck/state"):
        download(job_from(bucket, tmp_path), stored, lambda paths: None)


# --- what cannot be unpacked ----------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"no gzip", WHOLE[:-9], WHOLE[:12] + b"junk"], ids=["none", "cut", "spoiled"])
def test_a_key_that_cannot_be_unpacked_is_named_and_leaves_nothing(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, content: bytes
) -> None:
    s3.put(bucket, "ck/data.gz", content)
    job = job_from(bucket, tmp_path, compression=True)
    with pytest.raises(NotPacked, match=r"ck/data\.gz") as error:
        download(job, stored, lambda paths: None)
    answer = answer_to(error.value, Download(job))
    assert isinstance(answer, Refused) and (answer.reason, list(tmp_path.iterdir())) == ("download", [])


def disk_with_room_for(blocks: int) -> Callable[[int], SimpleNamespace]:
    """What a file system says of which a MiB is used after each question, until only the reserve is left."""
    left = iter(range(64 + blocks, 0, -1))
    return lambda _: SimpleNamespace(f_bavail=next(left), f_frsize=1024**2)


@pytest.mark.parametrize("has_room", [True, False])
def test_a_bomb_is_the_jobs_failure_before_it_fills_the_disk(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_room:
        monkeypatch.setattr(compression, "MOST_UNPACKED", 4 * 1024**2)
    else:
        monkeypatch.setattr(os, "fstatvfs", disk_with_room_for(8))
    s3.put(bucket, "ck/data.gz", gzip.compress(bytes(16 * 1024**2)))
    job = job_from(bucket, tmp_path, compression=True)
    with pytest.raises(Bomb, match=r"ck/data\.gz unpacks to more than") as error:
        download(job, stored, lambda paths: None)
    answer = answer_to(error.value, Download(job))
    assert isinstance(answer, Refused) and (answer.reason, list(tmp_path.iterdir())) == ("download", [])


def test_an_ordinary_file_for_which_there_is_no_room_is_the_machines_trouble(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fstatvfs", disk_with_room_for(2))
    s3.put(bucket, "ck/data.gz", gzip.compress(os.urandom(4 * 1024**2)))
    job = job_from(bucket, tmp_path, compression=True)
    with pytest.raises(OSError, match="No space left on device") as error:
        download(job, stored, lambda paths: None)
    answer = answer_to(error.value, Download(job))
    assert isinstance(answer, Troubled) and (answer.reason, list(tmp_path.iterdir())) == ("disk_full", [])


@pytest.mark.parametrize("ratio", [1, 1000])
def test_what_kelpie_packs_comes_back_however_well_it_packs(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, ratio: int
) -> None:
    content = os.urandom(3 * 1024**2) if ratio == 1 else bytes(16 * 1024**2)
    s3.put(bucket, "ck/data.gz", b"".join(compression.gzipped(iter([content]), 1024**2)))
    download(job_from(bucket, tmp_path, compression=True), stored, lambda paths: None)
    assert (tmp_path / "data").read_bytes() == content


# --- Kelpie's own files ---------------------------------------------------------------------------------


def test_no_object_takes_the_place_of_a_file_of_kelpies_own(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, state = tmp_path / "folder", tmp_path / "folder" / "kelpie-state.json"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    state.write_text("the worker's")
    refused = [
        "kelpie-state.json",
        "kelpie-state.json.gz",
        "kelpie-state.json.lock",
        "kelpie-state.json.tmp",
        "kelpie-state.json.tmp/makes-a-directory",
        own_name("places", "claim"),
        own_name("aside", "claim") + "/0/passes-for-an-output",
        "deep/" + own_name("part"),
    ]
    for key in (*refused, "mine", "kelpie-state.json.mine"):
        s3.put(bucket, f"ck/{key}", gzip.compress(b"forged") if key.endswith(".gz") else b"forged")
    job = job_from(bucket, tmp_path / "link", compression=True)
    download(job, stored, lambda paths: None, own_files(str(state)))
    assert state.read_text() == "the worker's"
    assert {path.name for path in folder.iterdir()} == {"kelpie-state.json", "mine", "kelpie-state.json.mine"}
    assert capfd.readouterr().err.count("it would take the place of a file of Kelpie's own") == len(refused)


# --- listed, and gone or replaced -----------------------------------------------------------------------


def test_what_is_gone_when_it_is_asked_for_has_all_be_listed_and_compared_again(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    for name in "abc":
        s3.put(bucket, f"ck/{name}", name.encode())
    job = job_from(bucket, tmp_path, *(reported(s3, bucket, f"ck/{name}") for name in "abc"))

    def delete_two(method: str, path: str) -> None:
        if method == "GET" and path.partition("?")[0].endswith("/ck/b"):
            s3.delete(bucket, "ck/a")
            s3.delete(bucket, "ck/b")

    faulty.fault = delete_two
    brought = download(job, stored, lambda paths: None, pause=lambda seconds: None)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert brought.versions.keys() == {str(tmp_path / "c")}
    assert brought.checkpoint.status is CheckpointStatus.TORN


def test_what_stays_listed_and_cannot_be_had_is_the_storages_fault(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.fault = lambda method, path: "404 NoSuchKey" if path.partition("?")[0].endswith("/state") else None
    with pytest.raises(ListedAndGone, match="ck/state is listed, and not there when it is asked for") as gone:
        download(job_from(bucket, tmp_path), stored, lambda paths: None, pause=lambda seconds: None)
    assert isinstance(answer_to(gone.value, Download(job_from(bucket, tmp_path))), Troubled)


@pytest.mark.parametrize("page", ["200 page", "html", "404 page"])
def test_a_page_in_place_of_an_object_is_not_taken_for_a_newer_version(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy, page: str
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.break_in_turn([page], "GET", "/ck/state")
    download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert (tmp_path / "state").read_bytes() == b"0123456789"


def test_empty_objects_that_mark_folders_are_no_files(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    for key in ("data", "data_$folder$", "deep/", "deep", "deep/er", "empty"):
        s3.put(bucket, f"ck/{key}", b"")
    for key in ("data/x", "deep/er/x"):
        s3.put(bucket, f"ck/{key}", b"1")
    download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "data/x",
        "deep/er/x",
        "empty",
    }


# --- storage that lies ----------------------------------------------------------------------------------


def test_half_an_object_that_passes_for_a_whole_one_is_brought_again(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.break_in_turn(["halve"], "GET", "ck/state")
    job = job_from(bucket, tmp_path, reported(s3, bucket, "ck/state"))
    assert download(job, stored, lambda paths: None).checkpoint.status is CheckpointStatus.CLEAN
    assert (tmp_path / "state").read_bytes() == b"0123456789"
    faulty.break_in_turn(["halve"] * 2, "GET", "ck/state")
    with pytest.raises(StorageUnreachable, match="5 bytes came of 10"):
        download(job, stored, lambda paths: None)


@pytest.mark.parametrize("earlier", [0, 1], ids=["by boto3", "by the short way"])
def test_a_part_that_was_not_asked_for_is_not_taken_for_an_object_whose_size_is_not_listed(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy, earlier: int
) -> None:
    s3.put(bucket, "state", b"0123456789")
    for _ in range(earlier):
        stored.fetch(bucket, "state", tmp_path / "state", RemoteFile("state", -1))
    faulty.break_in_turn(["part"], "GET", "/state")
    stored.fetch(bucket, "state", tmp_path / "state", RemoteFile("state", -1))
    assert (tmp_path / "state").read_bytes() == b"0123456789"


def test_other_bytes_than_those_of_the_etag_are_no_object_where_etags_are_known_to_be_sums(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    for name in ("mine", "mine too"):
        stored.put(Target(bucket, name, "text/plain"), b"it answers with an MD5")
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.break_in_turn(["spoil"], "GET", "ck/state")
    download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert (tmp_path / "state").read_bytes() == b"0123456789"


def test_an_etag_that_is_no_sum_of_the_content_stops_nothing(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.fault = lambda method, path: "spoil" if "ck/state" in path else None
    download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert (tmp_path / "state").read_bytes() == b"9876543210"


@pytest.mark.parametrize(
    ("etag", "headers", "comparable"),
    [
        ("0" * 32, {}, True),
        ("0" * 32, {"x-amz-server-side-encryption": "AES256"}, True),
        ("0" * 32, {"x-amz-server-side-encryption": "aws:kms"}, False),
        ("0" * 32, {"x-amz-server-side-encryption": "aws:kms:dsse"}, False),
        ("0" * 32, {"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
        ("0" * 32 + "-2", {}, False),
        ("", {}, False),
    ],
)
def test_only_what_may_be_a_sum_is_compared_with_one(etag: str, headers: dict[str, str], comparable: bool) -> None:
    assert get_object.may_be_md5(etag, headers) is comparable


def of_an_object(change: Callable[[dict[str, str]], dict[str, str]]) -> Callable[..., dict[str, str]]:
    """A change of the headers of downloads alone."""
    return lambda method, path, told: change(told) if method == "GET" and "list-type" not in path else told


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("etag", ['"another"', ""], ids=["another etag", "no etag"])
def test_an_older_version_than_the_listed_one_is_not_taken_for_it(
    stored: Storage,
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    faulty: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    in_pieces: bool,
    etag: str,
) -> None:
    """A cache may have kept it, or a part of the storage; checkpoints often have the same size."""
    if in_pieces:
        monkeypatch.setattr(get_object, "LARGE", 1)
    s3.put(bucket, "ck/state", b"0123456789")
    faulty.fault = lambda method, path: "spoil" if "ck/state" in path else None
    faulty.with_headers = of_an_object(
        lambda told: told | {"ETag": etag, "last-modified": "Wed, 12 Oct 2022 17:50:00 GMT"}
    )
    with pytest.raises(StorageUnreachable, match="ck/state: an older version of it came"):
        download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_version_that_no_listing_shows_yet_is_not_taken_for_the_listed_one(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    job = job_from(bucket, tmp_path, reported(s3, bucket, "ck/state"))
    later = formatdate(time.time() + 10, usegmt=True)
    faulty.with_headers = of_an_object(lambda told: told | {"ETag": '"newer"', "last-modified": later})
    brought = download(job, stored, lambda paths: None)
    assert brought.checkpoint.status is CheckpointStatus.TORN
    assert [stored.etag for stored in brought.objects.values()] == ["newer"]
    faulty.with_headers = of_an_object(lambda told: told | {"ETag": "", "last-modified": later})
    with pytest.raises(StorageUnreachable, match="it was replaced, and came without an ETag"):
        download(job, stored, lambda paths: None)


def test_an_object_that_the_storage_gives_two_etags_is_the_listed_one(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "ck/state", b"0123456789")
    job = job_from(bucket, tmp_path, reported(s3, bucket, "ck/state"))
    faulty.with_headers = of_an_object(lambda told: told | {"ETag": '"another"'})
    brought = download(job, stored, lambda paths: None)
    assert brought.checkpoint.status is CheckpointStatus.CLEAN
    assert list(brought.objects.values()) == list(job.checkpoint)


def test_a_page_of_html_without_an_etag_is_the_listed_one_if_size_and_date_are(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path, faulty: FaultyProxy
) -> None:
    """Storage without headers of its own gives it as a proxy gives a page."""
    stored.put(Target(bucket, "ck/report", "text/html"), b"<html>")
    faulty.with_headers = of_an_object(
        lambda told: {k: v for k, v in told.items() if not k.lower().startswith(("x-amz", "etag"))}
    )
    download(job_from(bucket, tmp_path), stored, lambda paths: None)
    assert (tmp_path / "report").read_bytes() == b"<html>"


@pytest.mark.parametrize("in_pieces", [False, True])
def test_an_object_replaced_after_it_was_listed_is_brought_and_the_checkpoint_is_torn(
    stored: Storage,
    s3: S3Server,
    bucket: str,
    tmp_path: Path,
    faulty: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    in_pieces: bool,
) -> None:
    if in_pieces:
        monkeypatch.setattr(get_object, "LARGE", 1)
    s3.put(bucket, "ck/state", b"old")
    job = job_from(bucket, tmp_path, reported(s3, bucket, "ck/state"))

    def replace_it(method: str, path: str) -> None:
        if "ck/state" in path and s3.get(bucket, "ck/state") == b"old":
            s3.put(bucket, "ck/state", b"younger")

    faulty.fault = replace_it
    brought = download(job, stored, lambda paths: None)
    assert (tmp_path / "state").read_bytes() == b"younger"
    assert brought.checkpoint.status is CheckpointStatus.TORN and "ck/state" in brought.checkpoint.detail
    assert list(brought.objects.values()) == [reported(s3, bucket, "ck/state")]
