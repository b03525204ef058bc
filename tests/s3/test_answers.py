"""What becomes of answers that the storage did not give, or did not mean for ever."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from kelpie_worker.s3 import client
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import (
    Changed,
    Misconfigured,
    NoBucket,
    NoDestination,
    StorageRefused,
    StorageUnreachable,
)
from kelpie_worker.s3.objects import UNKNOWN, Absent, Part, RemoteFile, Target, Version
from local_stack.s3 import S3Server
from tests.doubles.faulty_proxy import FaultyProxy
from tests.doubles.leases import held


@pytest.fixture
def shared(aws: None) -> SharedClient:
    return SharedClient("us-east-1")


@pytest.fixture
def storage(shared: SharedClient) -> Storage:
    return Storage(shared, held(), max_retries=0)


@pytest.fixture
def faulty(faulty: FaultyProxy) -> FaultyProxy:
    faulty.counts_looks = True
    return faulty


def target(bucket: str, key: str = "key") -> Target:
    return Target(bucket, key, "text/plain")


OPERATIONS: dict[str, Callable[[Storage, str, Path], Any]] = {
    "list": lambda storage, bucket, path: list(storage.files(bucket, "")),
    "get": lambda storage, bucket, path: storage.fetch(bucket, "key", path, RemoteFile("key", 7, "0" * 32)),
    "head": lambda storage, bucket, path: storage.state_of(bucket, "key"),
    "put": lambda storage, bucket, path: storage.put(target(bucket), b"content"),
    "begin": lambda storage, bucket, path: storage.begin(target(bucket)),
    "part": lambda storage, bucket, path: storage.send_part(target(bucket), "id", 1, b"content"),
    "complete": lambda storage, bucket, path: storage.complete(
        target(bucket), "id", [Part(1, '"etag"', b"md5")], 7
    ),
    "delete": lambda storage, bucket, path: storage.delete(bucket, "key"),
    "destination": lambda storage, bucket, path: storage.demand_destination(bucket, "out/"),
}


PAGES = ["404 page", "403 page", "407 page", "400 page", "302 page", "200 page"]
OF_THE_MACHINE = [
    "400 ExpiredToken",
    "403 RequestTimeTooSkewed",
    "403 InvalidAccessKeyId",
    "403 SignatureDoesNotMatch",
    "301 PermanentRedirect",
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_page_of_something_in_between_is_no_refusal_and_no_fact(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, tmp_path: Path, operation: str
) -> None:
    s3.put(bucket, "key", b"content")
    for page in PAGES:
        faulty.fault = lambda method, path, page=page: page  # type: ignore[misc]
        with pytest.raises(StorageUnreachable):
            OPERATIONS[operation](storage, bucket, tmp_path / "file")
    faulty.fault = lambda method, path: None
    assert s3.get(bucket, "key") == b"content"


@pytest.mark.parametrize("conditions", ["", "ignored"])
@pytest.mark.parametrize("etags", ["md5s", "others"])
@pytest.mark.parametrize("untagged", [{"PUT", "POST"}, {"PUT", "POST", "HEAD", "GET"}], ids=len)
def test_what_answers_uploads_without_an_etag_is_asked_for_it(
    storage: Storage,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    conditions: str,
    etags: str,
    untagged: set[str],
) -> None:
    """A proxy that changes bodies leaves ETags out. Without them nothing would ever count as uploaded."""
    faulty.conditions = conditions
    faulty.etags = etags
    faulty.fault = lambda method, path: "untagged" if method in untagged else None
    first = storage.put(target(bucket), b"content", Absent())
    second = storage.put(target(bucket), b"changed", Version(first.etag))
    assert {first.etag, second.etag} == {faulty.shown(md5(body).hexdigest()) for body in (b"content", b"changed")}
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"in parts")
    stored = storage.complete(target(bucket), upload, [part], 8, Version(second.etag))
    assert s3.get(bucket, "key") == b"in parts"
    assert stored.etag == faulty.shown(s3.etags(bucket)["key"])


def test_what_an_earlier_try_stored_is_known_by_its_content_where_etags_are_no_md5s(
    shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    """Else each answer that is lost would pass for the write of another machine."""
    storage = Storage(shared, held(), max_retries=1)
    faulty.etags = "others"
    first = storage.put(target(bucket), b"content", Absent())
    lost: list[str] = []

    def lose_once(method: str, path: str) -> str | None:
        if lost or first.etag not in faulty.headers[-1][1].get("If-Match", ""):
            return None
        lost.append(path)
        return "lost"

    faulty.fault = lose_once
    second = storage.put(target(bucket), b"changed", Version(first.etag))
    assert lost and second.etag == faulty.shown(md5(b"changed").hexdigest())
    s3.put(bucket, "key", b"foreign")
    with pytest.raises(Changed):
        storage.put(target(bucket), b"renewed", Version(second.etag))


def test_a_key_that_may_not_look_for_an_etag_that_was_left_out_is_told_so(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    faulty.fault = lambda method, path: "untagged" if method == "PUT" else "403"
    with pytest.raises(StorageRefused, match=r"without an ETag, and .*AccessDenied; let the AWS key read it"):
        OPERATIONS["put"](storage, bucket, tmp_path)
    assert s3.get(bucket, "key") == b"content"


@pytest.mark.parametrize("in_parts", [False, True])
def test_what_was_sent_is_stored_though_the_key_may_only_write_and_etags_are_no_md5s(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, in_parts: bool
) -> None:
    """As in a bucket that encrypts with a key of its own. The storage has compared the bytes with their MD5."""
    faulty.etags = "others"
    faulty.with_headers = lambda method, path, told: told | {"x-amz-request-id": "1"}
    faulty.fault = lambda method, path: "403" if method in ("HEAD", "GET") else None
    if in_parts:
        upload = storage.begin(target(bucket))
        part = storage.send_part(target(bucket), upload, 1, b"content")
        stored = storage.complete(target(bucket), upload, [Part(1, part.etag, b"foreign")], 7, Absent())
        assert stored.etag == faulty.shown(s3.etags(bucket)["key"])
    else:
        assert storage.put(target(bucket), b"content", Absent()).etag == faulty.shown(s3.etags(bucket)["key"])
    assert s3.get(bucket, "key") == b"content"


def test_an_upload_that_may_have_been_answered_by_something_else_has_to_be_looked_at(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    faulty.fault = lambda method, path: "swallow" if method == "PUT" else "403"
    with pytest.raises(StorageRefused, match="AccessDenied; let the AWS key read what it uploads"):
        storage.put(target(bucket), b"content")
    assert s3.keys(bucket) == []


@pytest.mark.parametrize("added", ['W/"{}"', '"{}-gzip"'])
def test_what_a_proxy_adds_to_the_etag_of_a_part_is_not_told_to_the_storage(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, added: str
) -> None:
    """It would not know the part: the upload would be begun again and again."""

    def changed(method: str, path: str, told: dict[str, str]) -> dict[str, str]:
        return told | {"ETag": added.format(told["ETag"].strip('"'))} if "partNumber" in path else told

    faulty.with_headers = changed
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"content")
    storage.complete(target(bucket), upload, [part], 7, Absent())
    assert s3.get(bucket, "key") == b"content"


@pytest.mark.parametrize("is_known", [False, True])
def test_a_deletion_that_something_else_has_answered_is_repeated(
    shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy, is_known: bool
) -> None:
    s3.put(bucket, "key", b"content")
    known = Version(s3.etags(bucket)["key"]) if is_known else UNKNOWN
    faulty.fault = lambda method, path: "swallow" if method == "DELETE" else None
    with pytest.raises(StorageUnreachable, match="key is still there though it was deleted"):
        Storage(shared, held(), max_retries=0).delete(bucket, "key", known)
    faulty.break_in_turn(["swallow"], "DELETE")
    Storage(shared, held(), max_retries=1).delete(bucket, "key", known)
    assert s3.keys(bucket) == []


def test_a_deletion_whose_outcome_may_not_be_looked_at_is_believed(
    storage: Storage, bucket: str, faulty: FaultyProxy
) -> None:
    faulty.fault = lambda method, path: "swallow" if method == "DELETE" else "403"
    storage.delete(bucket, "key")


def test_what_is_gone_is_deleted(storage: Storage, bucket: str, faulty: FaultyProxy) -> None:
    """Google's storage says so of a second deletion, where the answer to the first one was lost."""
    faulty.fault = lambda method, path: "404 NoSuchKey" if method == "DELETE" else None
    storage.delete(bucket, "key")
    storage.delete(bucket, "key", Version("0" * 32))


def test_an_upload_whose_abort_something_else_has_answered_is_aborted_later(
    storage: Storage, shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    upload = storage.begin(target(bucket))
    faulty.break_in_turn(["swallow"], "DELETE")
    storage.abort(target(bucket), upload)
    assert shared.open_uploads.any_left and s3.unfinished_uploads(bucket) == ["key"]
    storage.abort_left()
    assert not shared.open_uploads.any_left and s3.unfinished_uploads(bucket) == []


def test_half_an_etag_is_no_answer(storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy) -> None:
    s3.put(bucket, "key", b"content")
    faulty.fault = lambda method, path: "half-etag"
    with pytest.raises(StorageUnreachable):
        storage.state_of(bucket, "key")
    upload = s3.begin_upload(bucket, "key")
    with pytest.raises(StorageUnreachable):
        storage.send_part(target(bucket), upload, 1, b"content")


@pytest.mark.parametrize("leaves_out", ["x-amz", "etag"])
def test_an_object_that_is_a_page_of_html_is_known_by_a_listing(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, leaves_out: str
) -> None:
    """Of storage without headers of its own it looks like a proxy's page."""
    storage.put(Target(bucket, "report", "text/html"), b"<html>")
    faulty.with_headers = lambda method, path, told: {
        name: value for name, value in told.items() if not name.lower().startswith(("x-amz", leaves_out))
    }
    assert storage.state_of(bucket, "report") == Version(s3.etags(bucket)["report"])
    faulty.fault = lambda method, path: "200 page" if method == "HEAD" else None
    with pytest.raises(StorageUnreachable, match="that the storage has not given"):
        storage.state_of(bucket, "report")


def test_an_object_that_is_a_page_of_html_is_not_asked_for_without_end_where_nothing_may_be_listed(
    storage: Storage, bucket: str, faulty: FaultyProxy
) -> None:
    storage.put(Target(bucket, "report", "text/html"), b"<html>")
    faulty.with_headers = lambda method, path, told: {
        name: value for name, value in told.items() if not name.lower().startswith("x-amz")
    }
    faulty.fault = lambda method, path: "403" if "list-type" in path else None
    assert storage.state_of(bucket, "report") == UNKNOWN


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_conflict_without_a_condition_is_no_answer(
    storage: Storage, bucket: str, faulty: FaultyProxy, tmp_path: Path, operation: str
) -> None:
    for fault in ("412 page", "416 InvalidRange", "409 ConditionalRequestConflict"):
        faulty.fault = lambda method, path, fault=fault: fault  # type: ignore[misc]
        with pytest.raises(StorageUnreachable):
            OPERATIONS[operation](storage, bucket, tmp_path / "file")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_key_that_is_not_accepted_is_this_machines_trouble(
    storage: Storage,
    bucket: str,
    faulty: FaultyProxy,
    tmp_path: Path,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kelpie_worker.s3.bucket._KEY_RENEWED_WITHIN", 0)
    for code in OF_THE_MACHINE:
        faulty.fault = lambda method, path, code=code: code  # type: ignore[misc]
        with pytest.raises(Misconfigured, match=code[4:]):
            OPERATIONS[operation](storage, bucket, tmp_path / "file")


def test_a_bucket_that_is_full_is_waited_for_with_a_sentence(
    storage: Storage, bucket: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    faulty.fault = lambda method, path: "403 QuotaExceeded"
    with pytest.raises(
        StorageUnreachable, match="QuotaExceeded; there is no room: delete objects, or have the quota"
    ):
        OPERATIONS["put"](storage, bucket, tmp_path)


def test_credentials_that_were_renewed_in_their_file_are_read_again(
    aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    monkeypatch.setattr(client, "_SHORTEST_LIFE", 0)
    keys = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))

    def write(key: str) -> None:
        keys.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")

    def refuse_the_old_one(method: str, path: str) -> str | None:
        return "403 InvalidAccessKeyId" if "OLDKEY" in faulty.headers[-1][1]["Authorization"] else None

    write("OLDKEY")
    faulty.fault = refuse_the_old_one
    storage = Storage(SharedClient("us-east-1"), held(), max_retries=0)
    s3.put(bucket, "key", b"content")
    with pytest.raises(Misconfigured, match="InvalidAccessKeyId; check this machine's AWS key"):
        list(storage.files(bucket, ""))
    write("NEWKEY")
    assert [file.key for file in storage.files(bucket, "")] == ["key"]


def test_a_key_that_expires_in_the_middle_of_an_upload_and_is_renewed_late_costs_nothing_that_was_sent(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    upload = storage.begin(target(bucket))
    faulty.break_in_turn(["400 ExpiredToken"] * 4, "PUT", "partNumber")
    part = storage.send_part(target(bucket), upload, 1, b"content")
    faulty.break_in_turn(["400 ExpiredToken"] * 4, "POST", "uploadId")
    storage.complete(target(bucket), upload, [part], 7)
    assert s3.get(bucket, "key") == b"content"


def test_an_object_that_is_archived_is_told_of_in_a_sentence(
    storage: Storage, bucket: str, faulty: FaultyProxy, tmp_path: Path
) -> None:
    faulty.fault = lambda method, path: "403 InvalidObjectState"
    with pytest.raises(StorageRefused, match="InvalidObjectState; it is archived: restore it"):
        OPERATIONS["get"](storage, bucket, tmp_path / "file")


@pytest.mark.parametrize("content", [b"content", b""])
def test_a_refused_head_request_is_explained_by_a_get_request(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, content: bytes
) -> None:
    """An empty object has no first byte that could be asked for."""
    assert storage.state_of(bucket, "key") == Absent()
    s3.put(bucket, "key", content)
    faulty.fault = lambda method, path: "404 page" if method == "HEAD" else None
    assert storage.state_of(bucket, "key") == Version(s3.etags(bucket)["key"])
    assert ("GET", f"/{bucket}/key") in faulty.requests or content


def test_a_refusal_in_the_body_of_a_completions_200_is_one(
    storage: Storage, bucket: str, faulty: FaultyProxy
) -> None:
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"content")
    for code, error in (("SlowDown", StorageUnreachable), ("AccessDenied", StorageRefused)):
        faulty.fault = lambda method, path, code=code: f"200 {code}" if method == "POST" else None  # type: ignore[misc]
        with pytest.raises(error, match=code):
            storage.complete(target(bucket), upload, [part], 7)


def test_a_completion_that_was_not_answered_is_known_by_size_and_time_where_etags_are_no_md5s(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"content")
    faulty.break_in_turn(["lost", "gone"], "POST", "uploadId")
    foreign = Part(1, part.etag, b"another rule than the MD5 of MD5s")
    with pytest.raises(StorageUnreachable):  # no retries here
        storage.complete(target(bucket), upload, [foreign], 7)
    stored = storage.complete(target(bucket), upload, [foreign], 7)
    assert stored.etag == s3.etags(bucket)["key"]
    assert s3.get(bucket, "key") == b"content"


def test_an_object_that_is_put_together_after_a_gateway_gave_up_is_waited_for(
    shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    """To send the file again would take as long again, and end in the same way."""
    storage = Storage(shared, held(), max_retries=1)
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"content")
    completions = iter(["504 page", "gone"])
    looks: list[str] = []

    def decide(method: str, path: str) -> str | None:
        if method == "HEAD":
            looks.append(path)
            if len(looks) == 3:
                s3.put(bucket, "key", b"content")
        return next(completions) if method == "POST" else None

    faulty.fault = decide
    storage.complete(target(bucket), upload, [part], 7, Absent())
    assert len(looks) >= 3


def test_an_object_that_an_upload_did_not_become_is_looked_at_as_often_as_a_call_is_repeated(
    shared: SharedClient, bucket: str, faulty: FaultyProxy
) -> None:
    storage = Storage(shared, held(), max_retries=1)
    upload = storage.begin(target(bucket))
    part = storage.send_part(target(bucket), upload, 1, b"content")
    faulty.fault = lambda method, path: {"POST": "gone", "HEAD": "503"}.get(method)
    with pytest.raises(StorageUnreachable):
        storage.complete(target(bucket), upload, [part], 7)
    assert [method for method, _ in faulty.requests].count("HEAD") == 2


def test_what_an_upload_was_to_replace_is_not_what_it_became(
    storage: Storage, shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    """Two checkpoints of one size may come in one second, and storage removes uploads that wait for long."""
    s3.put(bucket, "key", b"another")
    there = storage.state_of(bucket, "key")
    upload = storage.begin(target(bucket))
    shared.open_uploads.begun((upload, bucket, "key"), (shared.open_uploads.begun_at(upload) or 0) - 2)
    part = storage.send_part(target(bucket), upload, 1, b"content")
    faulty.break_in_turn(["gone"], "POST", "uploadId")
    with pytest.raises(StorageUnreachable, match="key is not what was uploaded"):
        storage.complete(target(bucket), upload, [part], 7, there)


def test_an_object_that_is_older_than_the_upload_is_not_what_it_became(
    storage: Storage, shared: SharedClient, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    s3.put(bucket, "key", b"another")
    upload = storage.begin(target(bucket))
    shared.open_uploads.begun((upload, bucket, "key"), (shared.open_uploads.begun_at(upload) or 0) + 2)
    part = storage.send_part(target(bucket), upload, 1, b"content")
    faulty.break_in_turn(["gone"], "POST", "uploadId")
    with pytest.raises(StorageUnreachable, match="key is not what was uploaded"):
        storage.complete(target(bucket), upload, [part], 7)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("404 NoSuchBucket", "/out/ takes uploads: NoSuchBucket"),
        ("403 AccessDenied", "/out/ takes uploads: AccessDenied; let the AWS key put objects there"),
    ],
)
def test_a_destination_that_takes_nothing_is_named_also_where_it_may_be_listed(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy, fault: str, sentence: str
) -> None:
    faulty.fault = lambda method, path: None if fault[4:] == "AccessDenied" and method == "GET" else fault
    with pytest.raises(NoDestination, match=sentence):
        storage.demand_destination(bucket, "out/")


def test_a_destination_that_takes_only_some_names_is_one(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    """A policy may allow `*.pt` alone: the name of a look, which is no file's, is no reason to fail a job."""
    s3.put(bucket, "out/state-1", b"content")

    def allow_only(*names: str) -> None:
        allowed = [f"/{bucket}/out/{name}" for name in names]
        faulty.fault = lambda method, path: (
            "403" if method in ("POST", "PUT") and not path.partition("?")[0].endswith(tuple(allowed)) else None
        )

    for names in (["state-1"], ["best.pt"]):
        allow_only(*names)
        storage.demand_destination(bucket, "out/", ["x.txt", "best.pt"])
        assert storage.takes_uploads(bucket, "out/")  # it is in reach
    allow_only("other.bin")
    with pytest.raises(NoDestination, match="put objects there; if it may put those of some names only, give"):
        storage.demand_destination(bucket, "out/", ["x.txt", "best.pt"])
    assert s3.keys(bucket) == ["out/state-1"] and s3.unfinished_uploads(bucket) == []


def test_a_destination_that_takes_uploads_is_one_and_nothing_is_left_there(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    storage.demand_destination(bucket, "out/")
    assert {method for method, _ in faulty.requests} == {"GET", "PUT"}
    faulty.fault = lambda method, path: "403" if method == "PUT" else None  # it does not look whether there is one
    storage.demand_destination(bucket, "out/")
    faulty.fault = lambda method, path: "501 NotImplemented"
    storage.demand_destination(bucket, "out/")
    assert s3.keys(bucket) == s3.unfinished_uploads(bucket) == []


def test_a_destination_that_may_only_be_written_to_is_one(
    storage: Storage, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    faulty.fault = lambda method, path: "403" if "list-type" in path else None
    storage.demand_destination(bucket, "out/")
    assert s3.keys(bucket) == s3.unfinished_uploads(bucket) == []


def test_an_access_point_of_several_regions_is_refused_in_a_sentence(storage: Storage, tmp_path: Path) -> None:
    for operation in ("list", "get", "put", "begin"):
        with pytest.raises(NoBucket, match=r"multi-region access point, .* name a bucket"):
            OPERATIONS[operation](storage, "arn:aws:s3::123456789012:accesspoint/name.mrap", tmp_path / "file")
