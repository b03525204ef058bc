"""The fast path for small objects and ranged downloads of large ones: no byte is lost, and no error hidden."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from kelpie_worker.job import StoredObject
from kelpie_worker.s3 import get_object, ranged_get
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import NotThere, StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import Absent, RemoteFile, Target
from local_stack.s3 import S3Server
from tests.doubles.faulty_proxy import FaultyProxy
from tests.doubles.leases import held

PIECE = 100_000
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(PIECE))  # four pieces, none like another
Bring = Callable[[], bytes]


@pytest.fixture
def client(faulty: FaultyProxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> SharedClient:
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": faulty.url}.items():
        monkeypatch.setenv(name, value)
    return SharedClient("us-east-1")


@pytest.fixture
def stored(client: SharedClient) -> Storage:
    return Storage(client, held(), max_retries=2)


@pytest.fixture
def asked_of_boto(client: SharedClient) -> list[str]:
    """The operations that boto3 itself carries out."""
    asked: list[str] = []
    client.get().meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))
    return asked


def put(stored: Storage, bucket: str, key: str, body: bytes = b"small") -> str:
    return stored.put(Target(bucket, key, "text/plain"), body).etag


def test_boto_is_asked_for_the_first_object_of_each_kind_only(
    stored: Storage, s3: S3Server, bucket: str, asked_of_boto: list[str], tmp_path: Path
) -> None:
    keys = ["first", "a/b c", "ä+~!$&'()*=@%.:,;?#", "a//b", "/slash"]
    for key in keys:
        assert put(stored, bucket, key, key.encode()) == hashlib.md5(key.encode()).hexdigest()
    for key in keys:
        stored.fetch(bucket, key, tmp_path / "file")
        assert (tmp_path / "file").read_text() == key == s3.get(bucket, key).decode()
    assert asked_of_boto == ["PutObject", "GetObject"]


def test_an_empty_object_goes_the_short_way_too(
    stored: Storage, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    for key in ("first", "second"):
        put(stored, bucket, key, b"")
        assert stored.fetch(bucket, key, tmp_path / key).size == 0
    assert s3.files(bucket, "") == {"first": b"", "second": b""}


@pytest.mark.parametrize("bodies", ["unpacked", "packed"])
@pytest.mark.parametrize("encoding", ["gzip", None])
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_a_packed_object_comes_as_it_is_stored_whatever_packs_or_unpacks_bodies_on_their_way(
    stored: Storage,
    faulty: FaultyProxy,
    bucket: str,
    tmp_path: Path,
    bodies: str,
    encoding: str | None,
    suffix: str,
) -> None:
    faulty.bodies = bodies
    body = gzip.compress(b"small")
    for key in ("by boto" + suffix, "the short way" + suffix):
        etag = stored.put(Target(bucket, key, "text/plain", encoding), body).etag
        stored.fetch(bucket, key, tmp_path / "file", RemoteFile(key, len(body), etag))
        assert (tmp_path / "file").read_bytes() == body
    accepted = [headers["Accept-Encoding"] for method, headers in faulty.headers if method == "GET"]
    assert accepted[0] == ("gzip" if suffix else "identity")
    assert not any("accept-encoding" in headers["Authorization"] for _, headers in faulty.headers)


def test_a_refusal_and_a_size_are_known_though_a_proxy_packs_what_is_asked_for_under_a_packed_name(
    stored: Storage, faulty: FaultyProxy, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    faulty.bodies = "packed"
    assert stored.state_of(bucket, "none.gz") == Absent()
    s3.put(bucket, "first.gz", b"small")
    for key in ("first.gz", "first.gz"):
        stored.fetch(bucket, key, tmp_path / "file")
    with pytest.raises(NotThere):  # the short way
        stored.fetch(bucket, "none.gz", tmp_path / "file")
    assert stored.has(StoredObject(bucket, "first.gz", 5, s3.etags(bucket)["first.gz"]))


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_what_passes_is_tried_again(
    stored: Storage, faulty: FaultyProxy, s3: S3Server, bucket: str, fault: str
) -> None:
    put(stored, bucket, "first")
    faulty.break_in_turn([fault, fault], "PUT")
    put(stored, bucket, "second")
    assert s3.get(bucket, "second") == b"small"
    faulty.break_in_turn([fault] * 3, "PUT")
    with pytest.raises(StorageUnreachable):
        put(stored, bucket, "third")


def test_a_refusal_is_the_one_that_boto_would_tell(
    stored: Storage, faulty: FaultyProxy, bucket: str, tmp_path: Path
) -> None:
    put(stored, bucket, "first")
    stored.fetch(bucket, "first", tmp_path / "file")
    faulty.break_in_turn(["403"], "PUT")
    with pytest.raises(StorageRefused, match=f"uploading {bucket}/second: AccessDenied"):
        put(stored, bucket, "second")
    with pytest.raises(NotThere, match="NoSuchKey"):
        stored.fetch(bucket, "missing", tmp_path / "file")


def test_a_body_cut_short_is_no_answer(stored: Storage, faulty: FaultyProxy, bucket: str, tmp_path: Path) -> None:
    put(stored, bucket, "key", CONTENT)
    stored.fetch(bucket, "key", tmp_path / "file")
    faulty.break_in_turn(["truncate"], "GET")
    stored.fetch(bucket, "key", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    faulty.break_in_turn(["truncate"] * 3, "GET")
    with pytest.raises(StorageUnreachable):
        stored.fetch(bucket, "key", tmp_path / "file")


def test_an_upload_that_was_swallowed_is_noticed(stored: Storage, faulty: FaultyProxy, bucket: str) -> None:
    put(stored, bucket, "first")
    faulty.break_in_turn(["swallow"], "PUT")
    with pytest.raises(StorageUnreachable, match="is not there though it was stored"):
        put(stored, bucket, "second")


def test_an_answer_that_boto_may_follow_is_left_to_it(
    stored: Storage, faulty: FaultyProxy, s3: S3Server, bucket: str, asked_of_boto: list[str]
) -> None:
    put(stored, bucket, "first")
    faulty.break_in_turn(["400"], "PUT")
    put(stored, bucket, "second")
    put(stored, bucket, "third")
    assert asked_of_boto == ["PutObject", "PutObject"]
    assert s3.keys(bucket) == ["first", "second", "third"]


def test_credentials_and_region_are_those_of_boto(
    faulty: FaultyProxy, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**s3.environment, "AWS_ENDPOINT_URL": faulty.url, "AWS_SESSION_TOKEN": "a-token"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    stored = Storage(SharedClient("eu-north-1"), held(), max_retries=0)
    for key in ("first", "second"):
        put(stored, bucket, key)
    first, second = (headers for method, headers in faulty.headers if method == "PUT")
    assert (
        first["Authorization"].split("/")[2:4] == second["Authorization"].split("/")[2:4] == ["eu-north-1", "s3"]
    )
    assert first["X-Amz-Security-Token"] == second["X-Amz-Security-Token"] == "a-token"
    assert first["Content-MD5"] == second["Content-MD5"]
    assert first["Content-Type"] == second["Content-Type"] == "text/plain"


@pytest.fixture
def large(stored: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bring:
    """Brings an object of four pieces."""
    monkeypatch.setattr(ranged_get, "_PIECE", PIECE)
    monkeypatch.setattr(get_object, "LARGE", PIECE)
    put(stored, bucket, "large", CONTENT)

    def bring() -> bytes:
        assert stored.fetch(bucket, "large", tmp_path / "file", RemoteFile("large", len(CONTENT))).size == len(
            CONTENT
        )
        return (tmp_path / "file").read_bytes()

    return bring


def ranges_asked(faulty: FaultyProxy) -> list[str]:
    return sorted(headers["Range"] for method, headers in faulty.headers if "Range" in headers)


def test_a_large_object_comes_in_pieces(large: Bring, faulty: FaultyProxy) -> None:
    assert large() == CONTENT
    assert len(ranges_asked(faulty)) == 4
    assert sum("If-Match" in headers for _, headers in faulty.headers) == 3


def test_the_pieces_of_a_packed_object_are_asked_for_as_they_are_stored(
    large: Bring, stored: Storage, faulty: FaultyProxy, bucket: str, tmp_path: Path
) -> None:
    stored.put(Target(bucket, "large.gz", "text/plain", "gzip"), CONTENT)
    stored.fetch(bucket, "large.gz", tmp_path / "file", RemoteFile("large.gz", len(CONTENT)))
    assert (tmp_path / "file").read_bytes() == CONTENT
    accepted = [headers["Accept-Encoding"] for _, headers in faulty.headers if "Range" in headers]
    assert accepted == ["gzip"] * 4


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "truncate"])
def test_a_piece_goes_on_where_it_was_cut(large: Bring, faulty: FaultyProxy, fault: str) -> None:
    faulty.break_in_turn([fault, fault], "GET")
    assert large() == CONTENT
    if fault == "truncate":
        assert f"bytes={PIECE // 2}-{PIECE - 1}" in ranges_asked(faulty)


def test_a_piece_that_never_comes_is_told(large: Bring, faulty: FaultyProxy) -> None:
    faulty.fault = lambda method, path: "reset" if len(ranges_asked(faulty)) > 2 else None
    with pytest.raises(StorageUnreachable):
        large()


@pytest.mark.parametrize("ranges", ["honoured", "of any version"])
def test_an_object_replaced_meanwhile_is_never_mixed(
    large: Bring, faulty: FaultyProxy, s3: S3Server, bucket: str, ranges: str
) -> None:
    replaced = CONTENT[::-1]

    def replace_after_the_first_piece(method: str, path: str) -> None:
        if len(ranges_asked(faulty)) == 2:
            s3.put(bucket, "large", replaced)

    faulty.ranges, faulty.fault = ranges, replace_after_the_first_piece
    assert large() == replaced


@pytest.mark.parametrize("age", [0, 3600])
def test_pieces_without_an_etag_are_never_mixed(
    large: Bring, faulty: FaultyProxy, s3: S3Server, bucket: str, age: int
) -> None:
    """Only their date tells versions apart then, and not those of one second."""
    stored_at = [time.time() - age]
    replaced = CONTENT[::-1]
    asked: list[str] = []

    def replace_after_the_first_piece(method: str, path: str) -> str:
        asked.append(path)
        if len(asked) == 2:
            s3.put(bucket, "large", replaced)
            stored_at[0] = time.time()
        return "untagged"

    faulty.with_headers = lambda method, path, told: (
        told | {"last-modified": formatdate(stored_at[0], usegmt=True)}
    )
    faulty.fault = lambda method, path: "untagged"
    assert large() == CONTENT
    assert len(ranges_asked(faulty)) == (4 if age else 1)
    faulty.fault = replace_after_the_first_piece
    assert large() == replaced


@pytest.mark.parametrize("answer", ["whole", "mislabelled"])
def test_a_server_that_ignores_ranges_is_asked_twice(large: Bring, faulty: FaultyProxy, answer: str) -> None:
    faulty.ranges = answer
    for _ in range(3):
        assert large() == CONTENT
    assert len(ranges_asked(faulty)) == 2


@pytest.mark.parametrize("answer", ["whole", "mislabelled"])
def test_of_a_very_large_object_a_range_is_taken_that_has_the_status_of_a_whole_one(
    large: Bring, faulty: FaultyProxy, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr(get_object, "TAKEN_UNMARKED", PIECE)
    faulty.ranges = answer
    assert large() == large() == CONTENT
    assert len(ranges_asked(faulty)) == (8 if answer == "mislabelled" else 2)


def test_a_range_of_another_object_is_not_taken_whatever_its_status_is(
    large: Bring, faulty: FaultyProxy, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_object, "TAKEN_UNMARKED", PIECE)
    replaced = CONTENT[::-1]
    # Storage that sends ranges so does not know If-Match either.
    faulty.ranges, faulty.conditions = "mislabelled", "ignored"
    faulty.fault = lambda method, path: (
        s3.put(bucket, "large", replaced) if len(ranges_asked(faulty)) == 2 else None
    )
    assert large() == replaced
