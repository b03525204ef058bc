"""A slow or dead receiver delays no other webhooks, and a long outbox costs no more than a short one."""

from __future__ import annotations

import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.db import SQL, Database, Row, Transaction
from kelpie_api.migrations import known, migrate
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks import fairness
from kelpie_api.webhooks.fairness import Lanes
from kelpie_api.webhooks.sender import GIVE_UP_AFTER, HOLD, Sender
from local_stack.processes import wait_for
from tests.doubles.receiver import Receiver, listening, outbox, run_job, send_round
from tests.helpers import Client, Tenant, make_job, make_tenant

DEAD = "http://127.0.0.1:1/"


def make_webhooks(db: Database, tenant: Tenant, count: int, url: str) -> UUID:
    """Due webhooks of one running job that do not wait for each other; `%n` in the URL is their number."""
    job_id = make_job(db, tenant, "held", webhook=DEAD)
    db.execute(
        "insert into webhooks (job_id, url, status, machine_id, container_group, created, due_since, next_try)"
        " select %(job)s, replace(%(url)s, '%%n', n::text), 'running', 'm1', 'g1', now() - interval '2 minutes',"
        "        now() - interval '2 minutes', now() - (%(count)s - n) * interval '1 ms'"
        "   from generate_series(1, %(count)s) as n",
        job=job_id,
        url=url,
        count=count,
    )
    return job_id


def make_backlog(db: Database, tenant: Tenant, count: int) -> None:
    """As `make_webhooks` for one lane, in half the time: copies of a webhook that went by the triggers."""
    job_id = make_webhooks(db, tenant, 1, DEAD)
    with db.transaction() as tx:
        tx.execute("set local session_replication_role = replica")  # a copy has its lane
        tx.execute(
            "insert into webhooks (job_id, url, status, machine_id, container_group, created, due_since, next_try,"
            "                      user_id, lane)"
            " select job_id, url, status, machine_id, container_group, created, due_since,"
            "        now() - (%(count)s - n) * interval '1 ms', user_id, lane"
            "   from webhooks cross join generate_series(2, %(count)s) as n where job_id = %(job)s",
            job=job_id,
            count=count,
        )


def take(db: Database, room: dict[str, Any] | None = None) -> list[Row]:
    return db.all(SQL.take_webhooks, hold=HOLD, **(room or Lanes().room()))


def begun(sender: Lanes, taken: list[Row]) -> None:
    for webhook in taken:
        sender.begin(webhook["user_id"], webhook["lane"])


class TestTaking:
    def test_a_lane_is_a_users_way_to_a_scheme_host_and_port(self, db: Database, tenant: Tenant) -> None:
        rival = make_tenant(db, "rival", "default")
        other_project = make_tenant(db, tenant.caller.username, "other")
        one_lane = ["http://a/", "http://a/x?y", "http://u:p@a/", "HTTP://A#", "http://a", "http://u@b@a/"]
        for url in one_lane:
            make_webhooks(db, tenant, 1, url)
        make_webhooks(db, other_project, 1, "http://a/")
        assert len(db.all("select distinct lane from webhooks")) == 1
        for url in ["http://a:81/", "https://a/", "http://b/", "http://a@b.a/"]:
            make_webhooks(db, tenant, 1, url)
        make_webhooks(db, rival, 1, "http://a/")
        assert len(db.all("select distinct lane from webhooks")) == 6

    def test_a_host_of_any_length_has_a_lane(self, db: Database, tenant: Tenant) -> None:
        """Longer ones than there are were taken by earlier releases."""
        make_webhooks(db, tenant, 1, f"http://{'a' * 200_000}/")
        assert outbox(db)[0]["lane"]

    def test_of_each_lane_a_few_are_taken(self, db: Database, tenant: Tenant) -> None:
        for url in ("http://a/", "http://b/", "http://c/"):
            make_webhooks(db, tenant, 50, url)
        taken = Counter(webhook["lane"] for webhook in take(db))
        assert list(taken.values()) == [fairness.OF_A_LANE] * 3

    def test_the_oldest_of_a_lane_first(self, db: Database, tenant: Tenant) -> None:
        make_webhooks(db, tenant, 50, "http://a/%n")
        assert {webhook["url"] for webhook in take(db)} == {
            f"http://a/{n}" for n in range(1, fairness.OF_A_LANE + 1)
        }

    def test_of_each_user_no_more_than_its_share(self, db: Database, tenant: Tenant) -> None:
        tenants = [tenant, make_tenant(db, "rival", "default"), make_tenant(db, "third", "default")]
        for each in tenants:
            make_webhooks(db, each, 100, "http://host-%n/")
        taken = Counter(webhook["user_id"] for webhook in take(db))
        assert sorted(taken.values())[-2:] == [fairness.OF_A_USER] * 2  # the third leaves some for a fourth

    def test_after_six_users_took_all_they_may_there_is_a_thread_for_one_more(self, db: Database) -> None:
        under_way = Lanes()
        for n in range(6):
            make_webhooks(db, make_tenant(db, f"user {n}", "default"), 200, "http://host-%n/")
        while taken := take(db, under_way.room()):
            begun(under_way, taken)
        free = under_way.room()["batch"]
        assert 0 < free < fairness.THREADS / 8
        newcomer = make_tenant(db, "newcomer", "default")
        make_webhooks(db, newcomer, 1, "http://host/")
        assert [webhook["user_id"] for webhook in take(db, under_way.room())] == [newcomer.caller.user_id]

    def test_all_together_no_more_than_there_are_threads(self, db: Database) -> None:
        for n in range(8):
            make_webhooks(db, make_tenant(db, f"user {n}", "default"), 20, "http://host-%n/")
        assert len(take(db, Lanes().room() | {"batch": 3})) == 3

    def test_who_is_under_way_takes_room(self, db: Database, tenant: Tenant) -> None:
        rival = make_tenant(db, "rival", "default")
        make_webhooks(db, tenant, 50, "http://a/")
        make_webhooks(db, rival, 50, "http://b/")
        under_way = Lanes()
        taken = take(db)
        begun(under_way, taken)
        assert len(taken) == 2 * fairness.OF_A_LANE
        assert take(db, under_way.room()) == []
        under_way.end(taken[0]["user_id"], taken[0]["lane"], prompt=True)
        [next_one] = take(db, under_way.room())
        assert next_one["lane"] == taken[0]["lane"]

    def test_a_suspect_is_tried_one_at_a_time_until_it_answers(self, db: Database, tenant: Tenant) -> None:
        make_webhooks(db, tenant, 50, "http://a/")
        under_way = Lanes()
        for answered, next_time in ((False, 1), (False, 1), (True, fairness.OF_A_LANE)):
            taken = take(db, under_way.room())
            begun(under_way, taken)
            for webhook in taken:
                under_way.end(webhook["user_id"], webhook["lane"], answered)
            room = take(db, under_way.room())
            assert len(room) == next_time
            db.execute("update webhooks set next_try = now() where under_way")

    def test_every_lane_of_a_user_with_many_has_its_turn(self, db: Database, tenant: Tenant) -> None:
        make_webhooks(db, tenant, 300, "http://host-%n/")
        seen: set[UUID] = set()
        rounds = 0
        while len(seen) < 300:
            seen |= {webhook["lane"] for webhook in take(db)}
            rounds += 1
            assert rounds < 300
        assert take(db) == []

    def test_a_webhook_of_the_release_before_gets_its_lane_when_it_is_redelivered(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        job_id = run_job(api, receiver, "heartbeat")
        send_round(sender)
        db.execute("update webhooks set user_id = null, lane = null")
        assert api.post(f"/jobs/{job_id}/webhooks/{receiver.ids[0]}/redeliver").status_code == 202
        assert send_round(sender) == 1


class TestCost:
    """What is read of the outbox does not grow with it."""

    @pytest.fixture
    def one_session(self, migrated_url: str, new_tables: Database) -> Iterator[Database]:
        database = Database(migrated_url, connections=1)
        database.open()
        yield database
        database.close()

    @staticmethod
    def reads(tx: Transaction) -> dict[str, int]:
        """Entries read of each index of webhooks, and scans of the whole table, that this session counted."""
        rows = tx.all(
            "select indexrelid::regclass::text as name, pg_stat_get_xact_tuples_returned(indexrelid) as read"
            "  from pg_index where indrelid = 'webhooks'::regclass"
            " union all"
            " select 'whole table', pg_stat_get_xact_numscans('webhooks'::regclass)"
        )
        return {row["name"]: row["read"] for row in rows}

    @pytest.mark.parametrize(
        "planned_on",
        ["an empty outbox", "an emptied outbox", "a short outbox", "a long outbox", "an analyzed outbox"],
    )
    def test_a_look_at_a_hundred_thousand_of_one_lane_reads_a_few(
        self, one_session: Database, tenant: Tenant, planned_on: str
    ) -> None:
        if planned_on == "an empty outbox":
            assert take(one_session) == []
        if planned_on == "an emptied outbox":
            make_webhooks(one_session, tenant, 1000, DEAD)
            one_session.execute("delete from webhooks")
            one_session.execute("analyze webhooks")
        if planned_on == "a short outbox":  # and so it is in the statistics, until it is analyzed again
            make_webhooks(one_session, tenant, 3, DEAD)
            one_session.execute("analyze webhooks")
        make_backlog(one_session, tenant, 100_000)
        make_webhooks(one_session, make_tenant(one_session, "rival", "default"), 1, "http://b/")
        if planned_on == "an analyzed outbox":
            one_session.execute("analyze webhooks")
        with one_session.transaction() as tx:
            before = self.reads(tx)  # of statements whose counts were not handed in yet
            taken = tx.all(SQL.take_webhooks, hold=HOLD, **Lanes().room())
            after = self.reads(tx)
        read = {name: after[name] - before[name] for name in after}
        whole = read.pop("whole table")
        print(f"\n{len(taken)} taken of 100,001, index entries read: {read}")
        assert len(taken) == fairness.OF_A_LANE + 1
        assert whole == 0
        # Twice the first two hundred in order of time, to see that there is a backlog; then a few.
        assert 1 <= sum(read.values()) <= 450
        assert sum(read.values()) - read["webhooks_due"] <= 50


class TestTurns:
    def test_suspects_get_a_part_of_the_threads_and_of_a_users(self) -> None:
        under_way = Lanes()
        users = [uuid.uuid4() for _ in range(10)]
        for user in users:
            for _ in range(50):
                lane = uuid.uuid4()
                under_way.begin(user, lane)
                under_way.end(user, lane, prompt=False)
        room = under_way.room()
        assert sum(room["lane_rooms"]) == fairness.OF_SUSPECTS
        assert set(room["lane_rooms"]) == {0, 1}
        assert room["batch"] == fairness.THREADS and room["user_rooms"] == []

    def test_of_a_suspect_every_thread_counts(self) -> None:
        under_way = Lanes()
        suspects = [(uuid.uuid4(), uuid.uuid4()) for _ in range(60)]
        for user, lane in suspects:
            under_way.begin(user, lane)
            under_way.end(user, lane, prompt=False)
        for user, lane in suspects[: fairness.OF_SUSPECTS // fairness.OF_A_LANE]:
            for _ in range(fairness.OF_A_LANE):
                under_way.begin(user, lane)
        assert set(under_way.room()["lane_rooms"]) == {0}

    def test_what_is_remembered_of_suspects_has_an_end(self) -> None:
        under_way = Lanes()
        for _ in range(fairness.REMEMBERED_SUSPECTS + 10):
            user, lane = uuid.uuid4(), uuid.uuid4()
            under_way.begin(user, lane)
            under_way.end(user, lane, prompt=False)
        assert len(under_way.room()["lanes"]) == fairness.REMEMBERED_SUSPECTS

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.booleans()), max_size=60),
        st.integers(0, 60),
    )
    def test_room_is_what_the_caps_leave(self, webhooks: list[tuple[int, int, bool]], ended: int) -> None:
        under_way = Lanes()
        ids = [uuid.UUID(int=n) for n in range(100)]
        for user, lane, _ in webhooks:
            under_way.begin(ids[user], ids[10 * user + lane])
        for user, lane, answered in webhooks[:ended]:
            under_way.end(ids[user], ids[10 * user + lane], answered)
        busy = webhooks[ended:]
        room = under_way.room()
        assert room["batch"] == fairness.THREADS - len(busy)
        by_user = Counter(ids[user] for user, _, _ in busy)
        assert dict(zip(room["users"], room["user_rooms"], strict=True)) == {
            user: fairness.OF_A_USER - count for user, count in by_user.items()
        }
        by_lane = Counter(ids[10 * user + lane] for user, lane, _ in busy)
        rooms = dict(zip(room["lanes"], room["lane_rooms"], strict=True))
        for lane, count in by_lane.items():
            assert rooms[lane] in {fairness.OF_A_LANE - count, 0}


class Tarpit:
    """A receiver that takes every connection and answers none, until it is let go."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.held = 0
        self.most = 0
        self._lock = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[int]:
        """The receiver's port. Waiting requests are released even if the test fails."""
        with listening(self.converse) as port:
            try:
                yield port
            finally:
                self.over.set()

    def converse(self, line: socket.socket) -> None:
        with self._lock:
            self.held += 1
            self.most = max(self.most, self.held)
        self.over.wait(200)
        with self._lock:
            self.held -= 1


@pytest.fixture
def running(sender: Sender) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=sender.run)
    yield thread
    sender.stopped.set()
    sender.freed.set()
    if thread.is_alive():
        thread.join()


class TestNobodyElseWaits:
    def test_a_thousand_webhooks_of_a_receiver_that_never_answers_hold_up_no_other_user(
        self,
        api: Client,
        stranger: Client,
        db: Database,
        tenant: Tenant,
        receiver: Receiver,
        sender: Sender,
        running: threading.Thread,
    ) -> None:
        tarpit = Tarpit()
        sender.public_http = PublicHttp(True, in_all=200)  # no thread comes free while the test lasts
        with tarpit.listening() as port:
            make_webhooks(db, tenant, 1000, f"http://127.0.0.1:{port}/")
            running.start()
            wait_for(lambda: tarpit.held == fairness.OF_A_LANE, "the dead receiver to hold what it may")
            for _ in range(5):
                run_job(stranger, receiver, "completed")
            wait_for(lambda: len(receiver.got) == 10, "the webhooks of the other user")
            assert tarpit.held == tarpit.most == fairness.OF_A_LANE
            run_job(api, receiver, "completed")
            wait_for(lambda: len(receiver.got) == 12, "the same user's webhooks for another receiver")
            assert tarpit.held == tarpit.most == fairness.OF_A_LANE
            assert not db.all("select from deliveries where answer is null")

    def test_nor_do_a_thousand_receivers_of_one_user(
        self,
        stranger: Client,
        db: Database,
        tenant: Tenant,
        receiver: Receiver,
        sender: Sender,
        running: threading.Thread,
    ) -> None:
        tarpit = Tarpit()
        with tarpit.listening() as port:
            # Many names for one address: as many lanes.
            sender.public_http = PublicHttp(
                True, in_all=200, resolver=lambda host, port: [(socket.AF_INET, ("127.0.0.1", port))]
            )
            make_webhooks(db, tenant, 1000, f"http://host-%n.example:{port}/")
            running.start()
            wait_for(lambda: tarpit.held == fairness.OF_A_USER, "the dead receivers to hold what they may")
            run_job(stranger, receiver, "completed")
            wait_for(lambda: len(receiver.got) == 2, "the webhooks of the other user")
            assert tarpit.held == tarpit.most == fairness.OF_A_USER

    def test_nor_do_the_receivers_of_four_users_that_answer_in_their_last_second(
        self,
        stranger: Client,
        db: Database,
        receiver: Receiver,
        sender: Sender,
        running: threading.Thread,
    ) -> None:
        tarpit = Tarpit()
        with tarpit.listening() as port:
            sender.public_http = PublicHttp(
                True, in_all=200, resolver=lambda host, port: [(socket.AF_INET, ("127.0.0.1", port))]
            )
            for n in range(4):
                slow = make_tenant(db, f"slow {n}", "default")
                for lane in range(4):
                    make_webhooks(db, slow, 50, f"http://host-{lane}.example:{port}/")
            running.start()
            wait_for(lambda: sender.lanes.room()["batch"] < 20, "the slow receivers to hold what they may")
            run_job(stranger, receiver, "completed")
            wait_for(lambda: len(receiver.got) == 2, "the webhooks of the other user")
            assert not db.all("select from deliveries where answer is null")  # no slow request was given up for it

    def test_who_answers_slowly_is_a_suspect_until_an_answer_is_prompt(
        self,
        api: Client,
        db: Database,
        tenant: Tenant,
        receiver: Receiver,
        sender: Sender,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        make_webhooks(db, tenant, 50, receiver.url)
        monkeypatch.setattr(fairness, "PROMPT", 0.0)
        assert send_round(sender) == fairness.OF_A_LANE
        assert [send_round(sender), send_round(sender)] == [1, 1]
        monkeypatch.setattr(fairness, "PROMPT", 60.0)
        assert [send_round(sender), send_round(sender)] == [1, fairness.OF_A_LANE]
        assert len(receiver.got) == 2 * fairness.OF_A_LANE + 3

    def test_a_lane_is_served_without_pauses_as_fast_as_its_receiver_answers(
        self,
        db: Database,
        tenant: Tenant,
        receiver: Receiver,
        running: threading.Thread,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A sender that slept after each look would need a hundred and twenty-five of these pauses."""
        monkeypatch.setattr("kelpie_api.webhooks.sender.IDLE", 60)
        make_webhooks(db, tenant, 500, receiver.url)
        running.start()
        wait_for(lambda: len(receiver.got) == 500, "all of them", timeout=50)


def test_webhooks_that_wait_while_the_schema_is_migrated_get_their_lanes(empty_database: str) -> None:
    steps = known()
    migrate(empty_database, lambda line: None, steps[:6], functions=[])
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            "with job as (insert into jobs (id, tenant_id, command, arguments, environment, sync, compression,"
            "                               max_failures, heartbeat_interval)"
            "             select gen_random_uuid(), id, 'c', '[]', '{}', '{}', false, 3, 30 from tenants"
            "             returning id)"
            " insert into webhooks (job_id, url, status, machine_id, container_group, created, next_try,"
            "                       delivered)"
            " select id, 'http://a/', 'running', 'm1', 'g1', now() - interval '1 hour', due, done"
            "   from job cross join (values (now(), null), (null, now())) as two (due, done)"
        )
    migrate(empty_database, lambda line: None, steps)
    with psycopg.connect(empty_database) as connection:
        waiting, finished = connection.execute(
            "select user_id = (select id from users), lane is not null, due_since = created from webhooks"
            " order by seq"
        )
    assert waiting == (True, True, True)
    assert finished[1] is False


class TestADay:
    def test_what_was_never_tried_within_a_day_is_given_up_with_its_key(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "heartbeat")
        fresh = run_job(api, receiver, "heartbeat")
        db.execute("update webhooks set next_try = now() + interval '1 hour'")
        db.execute(
            "update webhooks set created = created - %(age)s, due_since = due_since - %(age)s"
            " where job_id <> %(fresh)s",
            age=GIVE_UP_AFTER + timedelta(minutes=1),
            fresh=fresh,
        )
        sender.give_up_old(0.0)
        old, young = outbox(db)
        assert old["given_up"] and old["sealed_key"] is None and old["tries"] == 0
        assert young["next_try"] and young["sealed_key"]

    def test_but_not_while_it_is_being_sent(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "heartbeat")
        db.execute(
            "update webhooks set due_since = due_since - interval '2 days', created = created - interval '2 days'"
        )
        [taken] = take(db)
        sender.give_up_old(0.0)
        sender.deliver(taken)
        assert outbox(db)[0]["delivered"]

    def test_the_loop_looks_for_them(
        self, api: Client, db: Database, receiver: Receiver, running: threading.Thread
    ) -> None:
        run_job(api, receiver, "heartbeat")
        db.execute(
            "update webhooks set due_since = now() - interval '25 hours', next_try = now() + interval '1 hour'"
        )
        running.start()
        wait_for(lambda: outbox(db)[0]["given_up"], "the webhook to be given up")
