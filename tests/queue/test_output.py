"""The end of what commands print: pieces by the holder, readers, what is kept
(docs/design/protocol.md, Output)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import SQL, Database
from kelpie_api.errors import NotTheHolder
from kelpie_api.queue import jobs, output
from kelpie_api.queue.output import OutputLimit, OutputReaders, Reader
from local_stack.processes import wait_for
from tests.helpers import Client, Job, Tenant, refused, report, rows_of_jobs, while_open


def start_job(api: Client, **fields: Any) -> Job:
    api.submit(**{"keep_output": 1000} | fields)
    answer = api.get("/work?machine_id=m1&container_group_id=g1&speaks=output")
    assert answer.json
    return dict(answer.json[0])


@pytest.fixture
def job(api: Client) -> Job:
    return start_job(api)


def send(api: Client, job: Job, start: int, content: bytes, attempt: int = 1, machine: str = "m1") -> TestResponse:
    named = f"machine_id={machine}&container_group_id=g1&attempt={attempt}&from={start}"
    return api.call("PUT", f"/jobs/{job['id']}/output?{named}", content)


def read(api: Client, job: Job, query: str = "") -> tuple[bytes, int, int]:
    """The bytes, the next offset, and how many were left out before."""
    answer = api.get(f"/jobs/{job['id']}/output?{query}")
    assert answer.status_code == 200, answer.text
    return answer.data, int(answer.headers["Kelpie-Next-Offset"]), int(answer.headers["Kelpie-Left-Out"])


def test_what_is_sent_is_read(api: Client, job: Job) -> None:
    assert read(api, job) == (b"", 0, 0)
    assert send(api, job, 0, b"one\n").json == {"next": 4, "watched": False}
    assert send(api, job, 4, b"\0\xfftwo\n").json == {"next": 10, "watched": False}
    assert read(api, job) == (b"one\n\0\xfftwo\n", 10, 0)
    assert read(api, job, "attempt=1&from=4") == (b"\0\xfftwo\n", 10, 0)
    assert read(api, job, "from=10") == (b"", 10, 0)
    assert read(api, job, "from=99") == (b"", 99, 0)
    assert read(api, job, "attempt=2") == (b"", 0, 0)


def test_a_piece_that_is_sent_again_or_overlaps_adds_what_is_new(api: Client, job: Job) -> None:
    for start, content, following in ((0, b"abc", 3), (0, b"abc", 3), (1, b"bcde", 5), (0, b"", 5), (0, b"x", 5)):
        assert (send(api, job, start, content).json or {})["next"] == following
    assert read(api, job) == (b"abcde", 5, 0)


def test_holes_are_told_where_they_are(api: Client, job: Job) -> None:
    send(api, job, 0, b"begin")
    send(api, job, 100, b"end")
    assert read(api, job) == (b"begin", 5, 0)
    assert read(api, job, "from=5") == (b"end", 103, 95)
    assert read(api, job, "download=true") == (b"beginend", 103, 95)


def test_the_end_is_kept(api: Client, db: Database, job: Job) -> None:
    for n in range(30):
        send(api, job, n * 100, bytes([65 + n]) * 100)
    content, following, left_out = read(api, job)
    assert (len(content), following, left_out) == (1000, 3000, 2000)
    assert content[:1] == bytes([65 + 20])
    send(api, job, 3000, b"z" * 5000)
    assert read(api, job) == (b"z" * 1000, 8000, 7000)
    kept = db.one_or_none("select sum(octet_length(content)) as n from output_pieces")
    assert kept == {"n": 1000}
    assert db.all("select kept from outputs") == [{"kept": 1000}]
    assert db.all("select sum(bytes) as n from output_sizes") == [{"n": 1000}]


def test_small_pieces_are_joined(api: Client, db: Database) -> None:
    job = start_job(api, keep_output=100_000)
    for n in range(100):
        send(api, job, n * 50, b"x" * 50)
    assert len(db.all("select from output_pieces")) == 2
    assert read(api, job) == (b"x" * 5000, 5000, 0)


def test_a_job_that_keeps_none_takes_pieces_and_forgets_them(api: Client, db: Database) -> None:
    job = start_job(api, keep_output=0)
    assert (send(api, job, 10, b"abc").json or {})["next"] == 13
    assert read(api, job) == (b"", 0, 0)
    assert db.all("select from outputs") == []


def test_a_piece_has_64_kibibytes_at_most(api: Client, job: Job) -> None:
    assert send(api, job, 0, b"x" * 65536).status_code == 200
    assert "65536" in refused(send(api, job, 65536, b"x" * 65537), 413)["message"]


@pytest.mark.parametrize("start", ["-1", "x", "", "99999999999999999999"])
def test_an_offset_that_is_none_is_a_400(api: Client, job: Job, start: str) -> None:
    path = f"/jobs/{job['id']}/output?machine_id=m1&container_group_id=g1&attempt=1&from={start}"
    refused(api.call("PUT", path, b"x"), 400)


def test_only_the_holder_sends_output(api: Client, stranger: Client, db: Database, job: Job) -> None:
    before = rows_of_jobs(db)
    assert "Holder" in refused(send(api, job, 0, b"x", attempt=2), 409)["error"]
    refused(send(api, job, 0, b"x", machine="m2"), 409)
    refused(send(stranger, job, 0, b"x"), 404)
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("end", ["completed", "failed", "released", "canceled"])
def test_after_the_attempt_ended_no_piece_is_taken(api: Client, job: Job, end: str) -> None:
    send(api, job, 0, b"kept")
    if end == "canceled":
        assert api.delete(f"/jobs/{job['id']}").status_code == 202
    else:
        api.report(job, end, attempt=1)
    refused(send(api, job, 4, b"late"), 409)
    assert read(api, job, "attempt=1&wait=20") == (b"kept", 4, 0)
    assert read(api, job, "attempt=1&from=4&wait=20") == (b"", 4, 0)


def test_a_piece_that_waits_for_a_report_of_the_end_is_refused(db: Database, tenant: Tenant, job: Job) -> None:
    def late() -> str:
        with pytest.raises(NotTheHolder):
            output.keep(db, tenant.caller, job["id"], report("m1", attempt=1), 0, b"late")
        return "refused"

    def end(tx: Any) -> None:
        tx.execute("select from queue for update")
        tx.execute("update queue set machine_id = null, holder_group = null, heartbeat = null")

    assert while_open(db, end, late)[1] == "refused"
    assert db.all("select from outputs") == []


def test_a_piece_that_is_being_written_delays_no_heartbeat(db: Database, tenant: Tenant, job: Job) -> None:
    values = {"job_id": job["id"], "machine_id": "m1", "attempt": 1, "start": 0, "content": b"x"}
    with db.transaction() as tx:
        assert tx.one_or_none(SQL.keep_output, **values, **tenant.caller.scope)
        assert jobs.heartbeat(db, tenant.caller, job["id"], report("m1", attempt=1)) == {"status": "running"}


def test_the_last_five_attempts_are_kept(api: Client, db: Database, job: Job) -> None:
    for attempt in range(1, 8):
        machine = f"m{attempt}"
        if attempt > 1:
            assert api.claim(machine)
        assert send(api, job, 0, f"attempt {attempt}".encode(), attempt, machine).status_code == 200
        api.report(job, "released", machine, attempt=attempt)
    assert [read(api, job, f"attempt={n}")[0] for n in range(1, 8)] == [b"", b""] + [
        f"attempt {n}".encode() for n in range(3, 8)
    ]
    assert read(api, job)[0] == b"attempt 7"
    assert db.all("select sum(bytes) as n from output_sizes") == [{"n": 45}]


def test_beyond_a_tenants_limit_the_attempts_that_ended_first_go(api: Client, db: Database) -> None:
    live, first, second = (start_job(api) for _ in range(3))
    for job in (live, first, second):
        send(api, job, 0, b"x" * 1000)
    for job in (first, second):
        api.report(job, "completed", attempt=1)
    limit = OutputLimit(db, 1)
    limit.most = 2000
    assert limit.trim_outputs() < 1
    assert [len(read(api, job)[0]) for job in (live, first, second)] == [1000, 0, 1000]
    assert limit.trim_outputs() > 1
    limit.most = 0
    limit.trim_outputs()
    assert [len(read(api, job)[0]) for job in (live, first, second)] == [1000, 0, 0]


def test_output_goes_with_its_job(api: Client, db: Database, job: Job) -> None:
    send(api, job, 0, b"x")
    api.report(job, "completed", attempt=1)
    db.execute("delete from jobs")
    assert db.all("select from outputs") == db.all("select from output_pieces") == []
    assert db.all("select sum(bytes) as n from output_sizes") == [{"n": 0}]


def test_who_may_read_output(
    app: Flask, api: Client, stranger: Client, db: Database, tenant: Tenant, job: Job
) -> None:
    send(api, job, 0, b"x")
    keys = [users.create_token(db, tenant.caller.user_id, "acme", "default", role) for role in Role]
    by_role = dict(zip(Role, keys, strict=True))
    assert read(Client(app.test_client(), by_role[Role.VIEWER]), job)[0] == b"x"
    refused(Client(app.test_client(), by_role[Role.WORKER]).get(f"/jobs/{job['id']}/output"), 403)
    refused(stranger.get(f"/jobs/{job['id']}/output"), 404)
    refused(send(Client(app.test_client(), by_role[Role.VIEWER]), job, 1, b"y"), 403)


def test_a_download_is_a_file_and_no_page(api: Client, job: Job) -> None:
    send(api, job, 0, b"<script>")
    answer = api.get(f"/jobs/{job['id']}/output?download=true")
    assert (answer.data, answer.mimetype) == (b"<script>", "application/octet-stream")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}-1.log"'


# --- reading along ---------------------------------------------------------------------------------------


@pytest.fixture
def along(app: Flask, tenant: Tenant) -> Iterator[Callable[[Job, str], Future[TestResponse]]]:
    """Begins to read along in a thread; returns once the reader waits, or is answered."""
    pool = ThreadPoolExecutor(8)
    room: OutputReaders = app.extensions["kelpie"].readers

    def begin(job: Job, query: str) -> Future[TestResponse]:
        before = len(room)
        client = Client(app.test_client(), tenant.key)
        future = pool.submit(client.get, f"/jobs/{job['id']}/output?wait=30&{query}")
        wait_for(lambda: len(room) > before or future.done(), "the reader to wait")
        return future

    yield begin
    room.close()
    pool.shutdown()


def test_a_reader_that_waits_gets_what_comes(
    api: Client, job: Job, along: Callable[[Job, str], Future[TestResponse]]
) -> None:
    reader = along(job, "from=0")
    assert send(api, job, 0, b"hello").json == {"next": 5, "watched": True}
    answer = reader.result(15)
    assert (answer.data, answer.headers["Kelpie-Next-Offset"]) == (b"hello", "5")
    assert answer.headers["Kelpie-Live"] == "true"


def test_a_reader_is_answered_when_the_attempt_ends(
    api: Client, job: Job, along: Callable[[Job, str], Future[TestResponse]]
) -> None:
    reader = along(job, "")
    api.report(job, "completed", attempt=1)
    assert reader.result(15).data == b""


def test_a_reader_has_the_holder_told_with_heartbeats(
    api: Client, job: Job, along: Callable[[Job, str], Future[TestResponse]]
) -> None:
    assert api.report(job, "heartbeat", attempt=1).json == {"status": "running"}
    along(job, "")
    assert api.report(job, "heartbeat", attempt=1).json == {"status": "running", "watched": True}


def test_beyond_the_bound_of_readers_the_answer_comes_at_once(
    app: Flask, api: Client, job: Job, along: Callable[[Job, str], Future[TestResponse]]
) -> None:
    app.extensions["kelpie"].readers.most = 1
    along(job, "")
    answer = along(job, "").result(15)
    assert (answer.data, answer.headers["Retry-After"]) == (b"", "5")


def test_readers_leave_the_room_of_workers_alone(
    app: Flask, api: Client, job: Job, along: Callable[[Job, str], Future[TestResponse]]
) -> None:
    app.extensions["kelpie"].readers.most = 2
    for _ in range(3):
        along(job, "")
    waiting = threading.Thread(target=api.get, args=("/work?machine_id=m9&container_group_id=g1&wait=30",))
    waiting.start()
    wait_for(lambda: len(app.extensions["kelpie"].waiting) == 1, "the worker to wait")
    api.submit()
    waiting.join(15)
    assert not waiting.is_alive()


def test_watching_is_written_every_fifteen_seconds_and_for_fifty_jobs_of_a_tenant(
    api: Client, db: Database, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until() -> Any:
        return db.one_or_none("select watched_until as u from queue where job_id = %(id)s", id=job["id"])["u"]  # type: ignore[index]

    assert output.watch(db, job["id"], 1)
    for left, is_written in ((36, False), (34, True)):
        db.execute("update queue set watched_until = now() + %(left)s * interval '1 second'", left=left)
        before = until()
        assert output.watch(db, job["id"], 1) and (until() > before) is is_written
    other = start_job(api)
    monkeypatch.setattr(output, "MOST_WATCHED", 1)
    assert not output.watch(db, other["id"], 1)
    assert output.watch(db, job["id"], 1)
    api.report(job, "released", attempt=1)
    assert not output.watch(db, job["id"], 1)
    assert output.watch(db, other["id"], 1)


@pytest.mark.parametrize("end", ["lapsed", "released", "failed"])
def test_the_next_attempt_of_a_job_that_is_read_along_hears_so_with_its_first_piece(
    api: Client, db: Database, job: Job, end: str
) -> None:
    assert output.watch(db, job["id"], 1)
    if end == "lapsed":
        db.execute("update queue set heartbeat = now() - interval '1 day'")
    else:
        api.report(job, end, attempt=1)
    assert api.get("/work?machine_id=m2&container_group_id=g1&speaks=output").json
    assert send(api, job, 0, b"x", attempt=2, machine="m2").json == {"next": 1, "watched": True}
    assert api.report(job, "heartbeat", "m2", attempt=2).json == {"status": "running", "watched": True}


def test_a_worker_that_sends_none_is_not_watched(api: Client, db: Database) -> None:
    api.submit(keep_output=100)
    job = api.claim()
    assert job and not output.watch(db, job["id"], 1)


def test_readers_whose_thread_could_not_start_leave_their_places(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = OutputReaders(db, most=1)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    for _ in range(2):
        with monkeypatch.context() as full, pytest.raises(RuntimeError):
            full.setattr(threading.Thread, "start", no_thread)
            readers.wait(Reader(uuid4(), 1, 0), 30, lambda: False)
    assert len(readers) == 0
    readers.wait(Reader(uuid4(), 1, 0), 0.01, lambda: False)
    readers.close()
