"""Buckets and storage that make it hard to bring what the job means: what lands is whole, and the right object."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kelpie_worker.downloads import Landing, download, one_for_each_path
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.storage import RemoteFile, SharedClient, Storage
from local_stack.s3 import S3Server
from tests.worker.faulty import FaultyProxy


@pytest.fixture
def stored(faulty: FaultyProxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": faulty.url}.items():
        monkeypatch.setenv(name, value)
    return Storage(SharedClient("us-east-1"), Lease(), max_retries=1)


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
        Landing(RemoteFile(key, 1, modified=modified), "/ck/a", key.endswith(".gz"))
        for key, modified in (chosen, other)
    ]
    job = Job("claim", "job", compression=True)
    found = one_for_each_path(landings[::-1] if turned else landings, job, SyncBlock("b", "ck/", "/ck"))
    assert [landing.remote.key for landing in found] == [chosen[0]], why
