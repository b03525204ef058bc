"""That the lease is asked before each try of what changes the bucket, and that no try outlives it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kelpie_worker.lease import Cancelled, Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import StorageUnreachable
from kelpie_worker.s3.objects import Absent, Target, Version
from kelpie_worker.s3.request_timeouts import Line
from kelpie_worker.system.linux import boottime
from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.faulty_proxy import Fault, FaultyProxy
from tests.doubles.leases import held

BODY = b"of this attempt"


class AskedLease(Lease):
    """A safe lease that notes after how many requests it was asked, and when."""

    def __init__(self, requests: list[tuple[str, str]]) -> None:
        super().__init__()
        self.asked: list[tuple[int, float]] = []
        self._requests = requests
        self.renew(boottime() + 3600)

    def wait_until_safe(self) -> bool:
        self.asked.append((len(self._requests), boottime()))
        return super().wait_until_safe()


def prepared(storage: Storage, bucket: str) -> Callable[[], object]:
    """The completion of an upload whose bytes are in the bucket."""
    target = Target(bucket, "x", "text/plain")
    upload = storage.begin(target)
    part = storage.send_part(target, upload, 1, BODY)
    return lambda: storage.complete(target, upload, [part], len(BODY), Absent())


def put(storage: Storage, bucket: str) -> Callable[[], object]:
    return lambda: storage.put(Target(bucket, "x", "text/plain"), BODY, Absent())


def put_by_the_fast_path(storage: Storage, bucket: str) -> Callable[[], object]:
    storage.put(Target(bucket, "first", "text/plain"), BODY)
    return put(storage, bucket)


def put_over_another(storage: Storage, bucket: str) -> Callable[[], object]:
    there = storage.put(Target(bucket, "x", "text/plain"), b"before")
    return lambda: storage.put(Target(bucket, "x", "text/plain"), BODY, Version(there.etag))


def delete(storage: Storage, bucket: str) -> Callable[[], object]:
    storage.put(Target(bucket, "x", "text/plain"), BODY)
    return lambda: storage.delete(bucket, "x")


def delete_of_one_version(storage: Storage, bucket: str) -> Callable[[], object]:
    there = storage.put(Target(bucket, "x", "text/plain"), b"before")
    now = storage.put(Target(bucket, "x", "text/plain"), BODY, Version(there.etag))  # conditions are enforced
    return lambda: storage.delete(bucket, "x", Version(now.etag))


CHANGES = [put, put_by_the_fast_path, put_over_another, prepared, delete, delete_of_one_version]


@pytest.fixture(params=CHANGES, ids=[change.__name__ for change in CHANGES])
def change(request: pytest.FixtureRequest) -> Callable[[Storage, str], Callable[[], object]]:
    return request.param  # type: ignore[no-any-return]


def test_the_lease_is_asked_before_each_try(
    aws: None, bucket: str, faulty: FaultyProxy, change: Callable[[Storage, str], Callable[[], object]]
) -> None:
    lease = AskedLease(faulty.requests)
    operation = change(Storage(SharedClient(None), lease, max_retries=3), bucket)
    left = ["503", "reset", "500"]
    faulty.fault = lambda method, path: left.pop(0) if left else None
    before = len(faulty.requests)
    lease.asked.clear()

    operation()

    assert not left
    assert [requests for requests, _ in lease.asked[:4]] == [before, before + 1, before + 2, before + 3]


@pytest.mark.parametrize("mode", ["legacy", "standard", "adaptive"])
def test_boto_retries_nothing_behind_the_leases_back(
    aws: None,
    monkeypatch: pytest.MonkeyPatch,
    bucket: str,
    faulty: FaultyProxy,
    change: Callable[[Storage, str], Callable[[], object]],
    mode: str,
) -> None:
    monkeypatch.setenv("AWS_RETRY_MODE", mode)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    operation = change(Storage(SharedClient(None), held(), max_retries=0), bucket)
    before = len(faulty.requests)
    faulty.fault = lambda method, path: "503"
    with pytest.raises(StorageUnreachable):
        operation()
    assert len(faulty.requests) == before + 1


@contextmanager
def in_background(operation: Callable[[], object], lease: Lease) -> Iterator[list[object]]:
    """Run it in a thread, which is cancelled in the end. Yields what it returned."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(operation())
        except Cancelled as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield results
    lease.cancel()
    thread.join(30)
    assert not thread.is_alive()


def test_a_try_that_is_under_way_ends_with_the_lease_and_is_not_repeated_before_it_is_renewed(
    aws: None,
    s3: S3Server,
    bucket: str,
    faulty: FaultyProxy,
    change: Callable[[Storage, str], Callable[[], object]],
) -> None:
    lease = AskedLease(faulty.requests)
    operation = change(Storage(SharedClient(None), lease, max_retries=3), bucket)
    before, others = len(faulty.requests), s3.etags(bucket)

    def stall_once(method: str, path: str) -> Fault | None:
        if len(faulty.requests) > before + 1:
            return None
        lease._until = boottime() + 0.3
        return "stall"

    faulty.fault = stall_once
    lease.asked.clear()
    with in_background(operation, lease) as results:
        wait_for(lambda: len(lease.asked) == 2, "the try to be given up", timeout=20)
        assert lease.asked[1][1] >= lease._until
        assert len(faulty.requests) == before + 1 and s3.etags(bucket) == others
        lease.renew(boottime() + 3600)
        wait_for(lambda: results, "the next try")
    assert s3.etags(bucket) != others


def test_a_lease_that_is_renewed_lets_a_slow_try_go_on(
    aws: None, s3: S3Server, bucket: str, faulty: FaultyProxy
) -> None:
    lease = AskedLease(faulty.requests)
    operation = put(Storage(SharedClient(None), lease, max_retries=0), bucket)
    is_there, go_on = threading.Event(), threading.Event()

    def slow(method: str, path: str) -> Fault | None:
        lease._until = boottime() + 2
        is_there.set()
        go_on.wait(30)
        return None

    faulty.fault = slow
    with in_background(operation, lease) as results:
        assert is_there.wait(30)
        ends_at = lease._until
        lease.renew(boottime() + 3600)
        wait_for(lambda: boottime() > ends_at + 0.5, "the end that the lease had")
        go_on.set()
        wait_for(lambda: results, "the answer")
    assert len(lease.asked) == len(faulty.requests) == 1 and s3.get(bucket, "x") == BODY


def test_a_cancelled_attempt_waits_for_no_answer(aws: None, bucket: str, faulty: FaultyProxy) -> None:
    lease = held()
    storage = Storage(SharedClient(None), lease, max_retries=3)
    target = Target(bucket, "x", "text/plain")
    upload = storage.begin(target)
    before = len(faulty.requests)
    faulty.fault = lambda method, path: "stall"
    with in_background(lambda: storage.send_part(target, upload, 1, BODY), lease) as results:
        wait_for(lambda: len(faulty.requests) > before, "the request")
    assert isinstance(results[0], Cancelled) and len(faulty.requests) == before + 1


def test_what_waits_in_this_machines_buffers_when_the_lease_ends_is_never_sent(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        body = bytes(3_000_000)
        lease = AskedLease([])
        storage = Storage(SharedClient(None), lease, max_retries=1)
        with in_background(lambda: storage.put(Target("b", "x", "text/plain"), body), lease):
            line, _ = server.accept()
            with line:
                lease._until = boottime() + 0.5
                wait_for(lambda: len(lease.asked) == 2, "the request to be given up", timeout=20)
                assert len(all_of(line)) < len(body)


def all_of(line: socket.socket) -> bytes:
    """What still comes, after the line was silent."""
    received = b""
    line.settimeout(10)
    try:
        while piece := line.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def test_a_small_request_waits_for_what_may_be_before_it_in_a_relay(
    aws: None, bucket: str, faulty: FaultyProxy
) -> None:
    client = SharedClient(None)
    storage = Storage(client, held(), max_retries=0)
    storage.state_of(bucket, "x")
    client.line = Line(0.5)
    faulty.fault = lambda method, path: threading.Event().wait(1.5) and None
    with pytest.raises(StorageUnreachable):
        storage.state_of(bucket, "x")
    with client.line.carrying(2_000_000):
        assert storage.state_of(bucket, "x") == Absent()


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_relay_that_buffers_is_waited_for_the_longer_the_more_was_sent(
    aws: None, bucket: str, faulty: FaultyProxy, size: int
) -> None:
    client = SharedClient(None)
    storage = Storage(client, held(), max_retries=0)
    target = Target(bucket, "x", "text/plain")
    upload = storage.begin(target)
    client.line = Line(0.5)
    faulty.fault = lambda method, path: threading.Event().wait(1.5) and None
    before = len(faulty.requests)
    if size == 100:
        with pytest.raises(StorageUnreachable):
            storage.send_part(target, upload, 1, bytes(size))
    else:
        storage.send_part(target, upload, 1, bytes(size))
    assert len(faulty.requests) == before + 1
