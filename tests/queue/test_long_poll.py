"""Waiting for work: `GET /work?...&wait=` (docs/design/protocol.md, Waiting for work)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import pytest
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from kelpie_api.queue import jobs, long_poll, notifications
from kelpie_api.queue.long_poll import FRESH, LongPoll, Waiter
from kelpie_api.schemas.work import WorkQuery
from local_stack.processes import wait_for
from tests import pgbouncer
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.helpers import Client, Job, Tenant, ban, claim, make_job, new_claim_id, refused

SOON = 15  # seconds: half of the time that is waited, so that the end of the wait cannot be the reason


class Crowd:
    """Workers that wait, each in a thread, until the test lets them go."""

    def __init__(self, app: Flask, key: str, size: int) -> None:
        self.app, self.key = app, key
        self.room: LongPoll = app.extensions["kelpie"].waiting
        self.pool = ThreadPoolExecutor(size)

    def wait(self, machine: str = "m1", group: str = "g1", claim_id: UUID | None = None) -> Future[Job | None]:
        """Begin to wait; returns when the waiter is in the room and found nothing yet, or was answered."""
        before = len(self.room)
        named = "" if claim_id is None else f"&claim_id={claim_id}"
        path = f"/work?machine_id={machine}&container_group_id={group}&wait=30{named}"
        future = self.pool.submit(self._ask, path)
        wait_for(lambda: len(self.room) > before or future.done(), "the request to wait")
        return future

    def _ask(self, path: str) -> Job | None:
        answer = Client(self.app.test_client(), self.key).get(path)
        assert answer.status_code == 200, answer.text
        return answer.json[0] if answer.json else None


@pytest.fixture
def crowd(app: Flask, tenant: Tenant) -> Iterator[Crowd]:
    crowd = Crowd(app, tenant.key, 60)
    yield crowd
    crowd.room.close()
    crowd.pool.shutdown()


def settle(room: LongPoll) -> None:
    """Notifications arrive from here on; behind PgBouncer none do, and every test must pass there too."""
    if not pgbouncer.asked_for:
        wait_for(lambda: room.listener.proven, "the listener to prove itself")


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The machines of all claims made, in the order of their ends."""
    made: list[str] = []
    real = jobs.claim

    def counted(*args: object) -> object:
        try:
            return real(*args)  # type: ignore[arg-type]
        finally:
            made.append(str(args[2]))

    monkeypatch.setattr(jobs, "claim", counted)
    return made


def test_a_submission_is_handed_to_a_claim_that_waits_for_it(crowd: Crowd, api: Client) -> None:
    waiter = crowd.wait()
    submitted = api.submit()
    job = waiter.result(SOON)
    assert job and (job["id"], job["machine_id"], job["attempt"]) == (submitted["id"], "m1", 1)


def test_without_work_the_answer_comes_in_the_end_and_is_an_empty_list(api: Client) -> None:
    answer = api.get("/work?machine_id=m1&container_group_id=g1&wait=1")
    assert (answer.status_code, answer.json) == (200, [])
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("how", ["released", "failed"])
def test_a_job_that_is_given_back_is_handed_to_a_waiting_claim(
    crowd: Crowd, api: Client, db: Database, tenant: Tenant, how: str
) -> None:
    job_id = make_job(db, tenant, "held", machine="m1")
    waiter = crowd.wait("m2")
    settle(crowd.room)
    assert api.report({"id": job_id}, how, "m1", attempt=1).status_code in {200, 202}
    job = waiter.result(SOON)
    assert job and (job["id"], job["machine_id"], job["attempt"]) == (str(job_id), "m2", 2)


def test_a_lapse_sends_no_notification_and_is_found_all_the_same(
    crowd: Crowd, db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant, "held", machine="m1", heartbeat_interval=1)
    waiter = crowd.wait("m2")
    settle(crowd.room)
    db.execute("update queue set heartbeat = now() - interval '1 hour'")
    job = waiter.result(SOON)
    assert job and (job["id"], job["attempt"]) == (str(job_id), 2)


def test_work_of_others_does_not_reach_a_waiting_claim(
    crowd: Crowd, api: Client, stranger: Client, claims: list[str]
) -> None:
    waiter = crowd.wait()
    settle(crowd.room)
    wait_for(lambda: claims, "its first claim")
    stranger.submit()
    api.submit(container_group_id="g2")
    crowd.room.look()
    assert not waiter.done() and claims == ["m1"]


def test_one_submission_wakes_one_of_many(crowd: Crowd, api: Client, claims: list[str]) -> None:
    waiters = [crowd.wait(f"m{number}") for number in range(50)]
    settle(crowd.room)
    wait_for(lambda: len(claims) == 50, "every waiter's first claim")
    api.submit()
    wait_for(lambda: any(waiter.done() for waiter in waiters), "one of them to be answered")
    crowd.room.look()
    assert waiters[0].result(SOON), "the first waiter is served first"
    assert len(claims) <= 53 and sum(waiter.done() for waiter in waiters) == 1


def test_a_batch_wakes_as_many_as_it_has_jobs(crowd: Crowd, api: Client, claims: list[str]) -> None:
    waiters = [crowd.wait(f"m{number}") for number in range(20)]
    batch = [{"command": "work", "container_group_id": "g1"}] * 8
    submitted = {job["id"] for job in api.post("/jobs/batch", batch).json or []}
    wait_for(lambda: sum(waiter.done() for waiter in waiters) == 8, "eight of them to be answered")
    answered = [waiter.result(SOON) for waiter in waiters if waiter.done()]
    assert {job["id"] for job in answered if job} == submitted
    crowd.room.look()
    assert len(claims) <= 20 + 8 * 2


def test_a_banned_machine_is_passed_over_for_one_that_is_not(
    crowd: Crowd, db: Database, tenant: Tenant, claims: list[str]
) -> None:
    job_id = make_job(db, tenant, "held", machine="m1")
    ban(db, job_id, "m1")
    banned, welcome = crowd.wait("m1"), crowd.wait("m2")
    settle(crowd.room)
    wait_for(lambda: len(claims) == 2, "the first claim of both")
    db.execute("update queue set machine_id = null, holder_group = null, heartbeat = null")
    job = welcome.result(SOON)
    assert job and job["id"] == str(job_id)
    assert not banned.done() and claims.count("m1") == 1


def test_jobs_that_all_waiting_claims_are_banned_from_wake_none_and_hide_no_other(
    crowd: Crowd, db: Database, tenant: Tenant, claims: list[str]
) -> None:
    for _ in range(3):
        ban(db, make_job(db, tenant, "waiting"), "m1")
    waiter = crowd.wait("m1")
    settle(crowd.room)
    wait_for(lambda: claims, "its first claim")
    crowd.room.look()
    crowd.room.look()
    assert claims == ["m1"]
    job_id = make_job(db, tenant)
    job = waiter.result(SOON)
    assert job and job["id"] == str(job_id)


def test_the_same_claim_waiting_twice_gets_the_same_job_and_attempt(crowd: Crowd, api: Client) -> None:
    """The client gave up the first request and sent it again; the server was not told."""
    claim_id = new_claim_id()
    first, second = crowd.wait(claim_id=claim_id), crowd.wait(claim_id=claim_id)
    api.submit()
    api.submit()
    answers = [first.result(SOON), second.result(SOON)]
    assert answers[0] and answers[1]
    assert [(job["id"], job["attempt"]) for job in answers if job] == [(answers[0]["id"], 1)] * 2


def test_a_claim_carried_out_elsewhere_is_answered_while_waiting(
    crowd: Crowd, db: Database, tenant: Tenant
) -> None:
    claim_id = new_claim_id()
    waiter = crowd.wait(claim_id=claim_id)
    settle(crowd.room)
    job_id = make_job(db, tenant, "held", group="g2")
    db.execute("update queue set claim_id = %(claim_id)s", claim_id=claim_id)
    job = waiter.result(SOON)
    assert job and (job["id"], job["attempt"]) == (str(job_id), 1)


def test_beyond_the_most_that_may_wait_the_answer_comes_at_once(app: Flask, crowd: Crowd, api: Client) -> None:
    crowd.room.most = 1
    first = crowd.wait("m1")
    answer = api.get("/work?machine_id=m2&container_group_id=g1&wait=30")
    assert (answer.status_code, answer.json) == (200, [])
    assert int(answer.headers["Retry-After"]) > 0
    assert not first.done()


def test_a_tenant_with_as_many_waiters_as_it_may_have_leaves_room_for_others(
    crowd: Crowd, api: Client, stranger: Client
) -> None:
    crowd.room.most_of_a_tenant = 1
    first = crowd.wait("m1")
    answer = api.get("/work?machine_id=m2&container_group_id=g1&wait=30")
    assert (answer.status_code, answer.json) == (200, [])
    assert int(answer.headers["Retry-After"]) > 0
    theirs = stranger.get("/work?machine_id=m2&container_group_id=g1&wait=1")
    assert (theirs.json, "Retry-After" in theirs.headers) == ([], False)
    api.submit()
    assert first.result(SOON)
    again = api.get("/work?machine_id=m3&container_group_id=g1&wait=1")
    assert (again.json, "Retry-After" in again.headers) == ([], False), "the first one has left its room"


def test_without_room_to_wait_work_that_is_there_is_handed_out(crowd: Crowd, api: Client) -> None:
    crowd.room.most = 0
    submitted = api.submit()
    answer = api.get("/work?machine_id=m2&container_group_id=g1&wait=30")
    assert [job["id"] for job in answer.json or []] == [submitted["id"]]
    assert "Retry-After" not in answer.headers


def test_the_end_of_the_process_answers_every_waiting_claim(crowd: Crowd) -> None:
    waiters = [crowd.wait(f"m{number}") for number in range(10)]
    crowd.room.close()
    assert [waiter.result(SOON) for waiter in waiters] == [None] * 10


def test_waiting_takes_no_connection(crowd: Crowd, api: Client) -> None:
    for number in range(30):
        crowd.wait(f"m{number}")
    assert api.get("/jobs").status_code == 200
    database = crowd.app.extensions["kelpie"].db
    wait_for(lambda: not database.due, "every connection to be given back")


@pytest.mark.parametrize("wait", ["-1", "1.5", "soon", "", "%2B5", "1_0", "\u0663", "%00", "5s"])
def test_what_is_no_number_of_seconds_is_a_400(api: Client, wait: str) -> None:
    answer = api.get(f"/work?machine_id=m1&container_group_id=g1&wait={wait}")
    assert refused(answer, 400)["errors"].keys() == {"wait"}


@pytest.mark.parametrize(("asked", "granted"), [("0", 0), ("20", 20), ("30", 30), ("31", 30), ("9" * 5000, 30)])
def test_more_than_thirty_seconds_are_thirty(asked: str, granted: int) -> None:
    query = WorkQuery().load({"machine_id": "m1", "container_group_id": "g1", "wait": asked})
    assert query["wait"] == granted


# --- the listener ---------------------------------------------------------------------------------------


def test_a_listener_without_notifications_is_not_trusted_and_looks_more_often(
    crowd: Crowd, api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SQL.by_name, "listen", "select 'as behind PgBouncer: it succeeds'")
    monkeypatch.setattr(notifications, "PROOF_TIME", 0.2)
    waiter = crowd.wait()
    api.submit()
    assert waiter.result(SOON)
    assert not crowd.room.listener.proven


@pytest.mark.skipif(pgbouncer.asked_for, reason="behind PgBouncer there is nothing to hear")
def test_the_listener_proves_itself_again_after_its_connection_is_cut(
    crowd: Crowd, db: Database, api: Client
) -> None:
    waiter = crowd.wait()
    settle(crowd.room)
    # Postgres ends that of the test before some time after it was closed.
    wait_for(lambda: len(listeners(db)) == 1, "no other to listen")
    [cut] = listeners(db)
    db.execute("select pg_terminate_backend(%(pid)s)", pid=cut)
    wait_for(lambda: listeners(db) not in ([], [cut]), "another connection to listen")
    settle(crowd.room)
    api.submit()
    assert waiter.result(SOON)


def test_a_listener_that_is_stopped_while_it_connects_does_not_listen(db: Database) -> None:
    listener = notifications.Listener(db, lambda word: None)
    listener.stop()
    thread = threading.Thread(target=listener.listen, daemon=True)
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive() and not listener.proven


def listeners(db: Database) -> list[int]:
    found = db.all(
        "select pid from pg_stat_activity"
        " where strpos(query, 'listen' || ' kelpie_work') > 0"  # not these words, which another connection asked
        "   and datname = current_database() and pid <> pg_backend_pid()"
    )
    return [row["pid"] for row in found]


def test_a_notification_comes_once_for_each_line_of_a_batch_and_never_for_a_heartbeat(
    migrated_url: str, db: Database, api: Client, tenant: Tenant
) -> None:
    held = {"id": make_job(db, tenant, "held")}
    with Database(migrated_url).connect() as connection:
        connection.execute(SQL.listen)
        api.report(held, "heartbeat", attempt=1)
        api.post(
            "/jobs/batch", [{"command": "w", "container_group_id": group} for group in ("g1", "g2", "g1", None)]
        )
        assert api.claim("m2")
        api.report(held, "released", attempt=1)
        db.one_or_none(SQL.prove_listener, token="the end")
        heard = []
        for notification in connection.notifies(timeout=SOON):
            if notification.payload == "the end":
                break
            heard.append(notification.payload.split(" ", 1)[1])
    assert sorted(heard[:3]) == ["", "g1", "g2"] and heard[3:] == ["g1"]


# --- calling, step by step ------------------------------------------------------------------------------


def taking(answers: list[Job | None]) -> Callable[[], Job | None]:
    return lambda: answers.pop(0)


def test_who_hung_up_takes_no_job(db: Database, tenant: Tenant) -> None:
    room = LongPoll(db, 10)
    waiter = Waiter(tenant.caller.tenant_id, "m1", ["g1", ""])
    answers: list[Job | None] = [None, {"id": "a job for nobody"}]
    waiter.woken.set()
    assert room.claim(waiter, taking(answers), 30, lambda: True) is None
    assert len(answers) == 1 and len(room) == 0
    room.close()


@pytest.mark.parametrize(("long", "looked_ago", "tries"), [(0.01, 0.0, 1), (0.01, FRESH + 1, 2), (10.0, 0.0, 2)])
def test_the_end_of_a_long_wait_costs_no_claim_where_a_look_has_just_found_nothing(
    db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, long: float, looked_ago: float, tries: int
) -> None:
    monkeypatch.setattr(long_poll, "LONG", long)
    room = LongPoll(db, 10)
    monkeypatch.setattr(room, "_start_threads", lambda: None)  # no other look than that of this test
    answers: list[Job | None] = [None, None]
    waiter = Waiter(tenant.caller.tenant_id, "m1", ["g1", ""])
    room._waiting[waiter] = None  # a look without waiters asks nothing
    room.look()
    del room._waiting[waiter]
    room._looked -= looked_ago
    assert room.claim(waiter, taking(answers), 0.01, lambda: False) is None
    assert len(answers) == 2 - tries
    room.close()


def test_a_room_whose_threads_could_not_start_starts_them_for_the_next_waiter(
    db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = LongPoll(db, 10)
    tried: list[str] = []

    def take() -> Job | None:
        job = claim(db, tenant, "m1")
        tried.append("m1")
        return job

    def wait() -> Job | None:
        return room.claim(Waiter(tenant.caller.tenant_id, "m1", ["g1", ""]), take, 30, lambda: False)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full, pytest.raises(RuntimeError):
        full.setattr(threading.Thread, "start", no_thread)
        wait()
    assert len(room) == 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        wait_for(lambda: tried == ["m1"], "the claim to wait")
        job_id = make_job(db, tenant)
        job = waiting.result(SOON)
        assert job and job["id"] == job_id
    room.close()


def test_a_job_claimed_for_a_client_that_hung_up_is_for_the_next(db: Database, tenant: Tenant) -> None:
    room = LongPoll(db, 10)
    tried: list[str] = []

    def take(machine: str) -> Job | None:
        job = claim(db, tenant, machine)
        tried.append(machine)
        return job

    def wait(machine: str, gone: bool) -> Job | None:
        waiter = Waiter(tenant.caller.tenant_id, machine, ["g1", ""])
        return room.claim(waiter, lambda: take(machine), 30, lambda: gone)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(wait, "m1", True)
        wait_for(lambda: tried == ["m1"], "the first to wait")
        second = pool.submit(wait, "m2", False)
        wait_for(lambda: tried == ["m1", "m2"], "the second to wait")
        job_id = make_job(db, tenant)
        assert first.result(SOON) is None
        job = second.result(SOON)
        assert job and (job["id"], job["machine_id"]) == (job_id, "m2")
    room.close()


def test_a_process_that_ends_hands_out_what_is_there_and_lets_no_claim_wait(
    tenant: Tenant, migrated_url: str
) -> None:
    app = create_app(Config(database_url=migrated_url, secret_key=SECRET_KEY, admin_key=ADMIN_KEY))
    app.extensions["kelpie"].waiting.close()
    answer = Client(app.test_client(), tenant.key).get("/work?machine_id=m1&container_group_id=g1&wait=30")
    assert (answer.status_code, answer.json) == (200, [])
    app.extensions["kelpie"].end()
