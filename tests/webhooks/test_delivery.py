"""Webhooks: written with the change of the job, sent afterwards, at least once, in order
(docs/design/protocol.md, Webhooks)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.db import SQL, Database
from kelpie_api.encryption import Seal
from kelpie_api.queue.progress import told
from kelpie_api.webhooks.fairness import Lanes
from kelpie_api.webhooks.sender import BACKOFF, GIVE_UP_AFTER, HOLD, Sender
from local_stack.processes import wait_for
from tests.doubles.receiver import Receiver, make_due, outbox, run_job, send_round
from tests.helpers import Client, Tenant, make_job, report


def make_old(db: Database, age: timedelta) -> None:
    """As if every webhook had been written so long ago."""
    db.execute("update webhooks set created = created - %(age)s, due_since = due_since - %(age)s", age=age)


class TestWriting:
    """The outbox is written in the transaction that changes the job."""

    @pytest.mark.parametrize(
        ("report", "fields", "written"),
        [
            ("completed", {}, ["running", "completed"]),
            ("failed", {"max_failures": 1}, ["running", "failed"]),
            ("failed", {"max_failures": 2}, ["running"]),
            ("released", {}, ["running"]),
            ("heartbeat", {}, ["running"]),
        ],
    )
    def test_each_transition_writes_its_webhook(
        self,
        api: Client,
        db: Database,
        receiver: Receiver,
        report: str,
        fields: dict[str, int],
        written: list[str],
    ) -> None:
        run_job(api, receiver, report, **fields)
        assert [webhook["status"] for webhook in outbox(db)] == written

    def test_a_cancel_writes_none(self, api: Client, db: Database, receiver: Receiver) -> None:
        job = api.submit(webhook=receiver.url)
        api.delete(f"/jobs/{job['id']}")
        assert outbox(db) == []

    def test_a_job_without_a_webhook_writes_none(self, api: Client, db: Database) -> None:
        job = api.submit()
        api.claim()
        api.report(job, "completed", attempt=1)
        assert outbox(db) == []

    def test_a_refused_or_repeated_report_writes_none(self, api: Client, db: Database, receiver: Receiver) -> None:
        job = {"id": run_job(api, receiver, "completed")}
        before = outbox(db)
        for machine, attempt in (("m1", 1), ("m1", None), ("m2", 1), ("m2", None)):
            api.report(job, "completed", machine, attempt=attempt)
            api.report(job, "failed", machine, attempt=attempt)
        assert len(outbox(db)) == len(before)

    def test_a_transition_that_is_rolled_back_writes_none(
        self, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        job_id = make_job(db, tenant, "held", webhook=receiver.url)
        with db.transaction() as tx:
            tx.one_or_none(
                SQL.complete_job,
                job_id=job_id,
                scope=None,
                groups=None,
                machine_id="m1",
                container_group="g1",
                attempt=1,
                exit_code=0,
                reason=None,
                detail=None,
                output=None,
                actor="machine:m1",
                sealed_key=None,
                **told(report()),
            )
            assert len(tx.all("select from webhooks")) == 1
            tx.connection.execute("rollback")
            tx.connection.execute("begin")
        assert outbox(db) == []


class TestDelivery:
    def test_the_receiver_gets_what_happened_and_the_key_of_the_report(
        self, api: Client, db: Database, tenant: Tenant, receiver: Receiver, sender: Sender
    ) -> None:
        job_id = run_job(api, receiver, "completed")
        while send_round(sender):
            continue
        assert [webhook["body"] for webhook in receiver.got] == [
            {"status": "running", "job_id": job_id, "machine_id": "m1", "container_group_id": "g1"},
            {"status": "completed", "job_id": job_id, "machine_id": "m1", "container_group_id": "g-of-the-report"},
        ]
        for webhook in receiver.got:
            assert webhook["headers"]["x-kelpie-key"] == tenant.key
            assert webhook["headers"]["content-type"] == "application/json"
        assert [UUID(webhook_id) for webhook_id in receiver.ids] == [webhook["id"] for webhook in outbox(db)]

    def test_what_was_delivered_is_not_sent_again_and_its_key_is_erased(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "heartbeat")
        assert outbox(db)[0]["sealed_key"]
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["delivered"] and webhook["last_status"] == 200
        assert webhook["sealed_key"] is None
        assert send_round(sender) == 0
        assert len(receiver.got) == 1

    @pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 429, 500, 503])
    def test_anything_else_is_retried_soon_with_the_same_id(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender, status: int
    ) -> None:
        receiver.answers = [status]
        run_job(api, receiver, "heartbeat")
        send_round(sender)
        [failed] = outbox(db)
        assert failed["last_status"] == status and failed["sealed_key"]
        assert timedelta(0) < failed["pause"] < timedelta(seconds=10)
        assert send_round(sender) == 0
        make_due(db)
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["delivered"] and webhook["tries"] == 2
        assert len(receiver.got) == 2 and len(set(receiver.ids)) == 1

    def test_a_refused_connection_is_retried_too(self, api: Client, db: Database, sender: Sender) -> None:
        api.submit(webhook="http://127.0.0.1:1/")
        api.claim()
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["next_try"] and "Connection" in webhook["last_error"]

    @pytest.mark.parametrize(
        "url",
        ["http://[fe80::1%25nowhere]/", "http://..", "http://xn--/", f"http://{'a' * 200}/", "http://1.2.3.4.5/"],
    )
    def test_an_address_that_cannot_be_used_is_a_failed_try_and_no_accident(
        self, api: Client, db: Database, sender: Sender, url: str
    ) -> None:
        api.submit(webhook=url)
        api.claim()
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["last_error"] and webhook["next_try"]

    def test_410_is_given_up_and_the_key_erased(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [410]
        run_job(api, receiver, "heartbeat")
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["given_up"] and webhook["sealed_key"] is None and webhook["next_try"] is None

    def test_a_day_of_failures_is_given_up(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500, 500]
        run_job(api, receiver, "heartbeat")
        make_old(db, GIVE_UP_AFTER - timedelta(minutes=1))
        send_round(sender)
        assert outbox(db)[0]["next_try"]
        make_old(db, timedelta(minutes=1))
        make_due(db)
        send_round(sender)
        assert outbox(db)[0]["given_up"]

    def test_a_key_that_was_encrypted_with_another_secret_is_sent_as_none(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender, caplog: pytest.LogCaptureFixture
    ) -> None:
        run_job(api, receiver, "heartbeat")
        other = Seal("another secret of more than thirty-two characters")
        db.execute("update webhooks set sealed_key = %(sealed)s", sealed=other.seal("a key"))
        send_round(sender)
        assert receiver.got[0]["headers"]["x-kelpie-key"] == ""
        assert "webhook_key_unreadable" in caplog.messages


class TestOrder:
    def test_a_job_s_webhooks_are_sent_one_after_the_other(
        self, api: Client, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "completed")
        assert [send_round(sender) for _ in range(3)] == [1, 1, 0]
        assert receiver.statuses == ["running", "completed"]

    def test_while_the_first_is_retried_the_second_waits(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500]
        run_job(api, receiver, "completed")
        send_round(sender)
        assert send_round(sender) == 0
        make_due(db)
        assert [send_round(sender), send_round(sender)] == [1, 1]
        assert receiver.statuses == ["running", "running", "completed"]

    def test_but_not_for_longer_than_a_minute(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500]
        run_job(api, receiver, "completed")
        send_round(sender)
        db.execute(
            "update webhooks set created = created - interval '61 seconds',"
            " due_since = due_since - interval '61 seconds' where status = 'running'"
        )
        assert send_round(sender) == 1
        assert receiver.statuses == ["running", "completed"]

    def test_one_given_up_holds_up_nothing(self, api: Client, receiver: Receiver, sender: Sender) -> None:
        receiver.answers = [410]
        run_job(api, receiver, "completed")
        assert [send_round(sender), send_round(sender)] == [1, 1]
        assert receiver.statuses == ["running", "completed"]

    def test_other_jobs_do_not_wait(self, api: Client, receiver: Receiver, sender: Sender) -> None:
        receiver.answers = [500]
        run_job(api, receiver, "completed")
        send_round(sender)
        other = run_job(api, receiver, "completed")
        send_round(sender)
        assert receiver.got[-1]["body"]["job_id"] == other


class TestSenders:
    def test_a_sender_that_dies_after_taking_loses_nothing(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "heartbeat")
        taken = db.all(SQL.take_webhooks, hold=HOLD, **Lanes().room())
        assert len(taken) == 1 and receiver.got == []
        assert send_round(sender) == 0
        db.execute("update webhooks set next_try = next_try - %(hold)s", hold=HOLD)
        send_round(sender)
        assert receiver.ids == [str(taken[0]["id"])]
        assert outbox(db)[0]["delivered"]

    def test_two_senders_do_not_take_the_same_webhook(self, api: Client, db: Database, receiver: Receiver) -> None:
        for _ in range(10):
            run_job(api, receiver, "heartbeat")
        with db.transaction() as tx:
            first = tx.all(SQL.take_webhooks, hold=HOLD, **Lanes().room() | {"lane_cap": 5})
            second = db.all(SQL.take_webhooks, hold=HOLD, **Lanes().room() | {"lane_cap": 10})
        assert len(first) == len(second) == 5
        assert not {webhook["id"] for webhook in first} & {webhook["id"] for webhook in second}

    def test_a_slow_receiver_delays_no_other(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        slow = Receiver.answer

        def answer(headers: dict[str, str], body: bytes) -> int:
            status = slow(receiver, headers, body)
            if len(receiver.got) == 1:
                assert receiver.hold.wait(30)
            return status

        receiver.answer = answer  # type: ignore[method-assign]
        run_job(api, receiver, "heartbeat")
        with ThreadPoolExecutor(8) as pool:
            sender.round(pool)
            wait_for(lambda: receiver.got, "the slow receiver to have the first webhook")
            for _ in range(5):
                run_job(api, receiver, "heartbeat")

            def others_delivered() -> bool:
                sender.round(pool)
                return sum(bool(webhook["delivered"]) for webhook in outbox(db)) == 5

            wait_for(others_delivered, "the five others")
            assert outbox(db)[0]["delivered"] is None
            receiver.hold.set()
        assert outbox(db)[0]["delivered"]

    def test_the_loop_delivers_what_comes_and_finishes_what_is_under_way_when_it_is_stopped(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        thread = threading.Thread(target=sender.run)
        thread.start()
        run_job(api, receiver, "completed")
        wait_for(lambda: len(receiver.got) == 2, "both webhooks")
        sender.stopped.set()
        thread.join()
        assert all(webhook["delivered"] for webhook in outbox(db))
        assert receiver.statuses == ["running", "completed"]


@given(tries=st.integers(1, 1000), jitter=st.floats(0, 1))
def test_a_pause_is_between_half_and_all_of_its_step_and_never_over_an_hour(tries: int, jitter: float) -> None:
    longest = BACKOFF.after(tries, 0)
    assert longest / 2 <= BACKOFF.after(tries, jitter) <= longest <= timedelta(hours=1)
    assert BACKOFF.after(tries + 1, 0) >= longest


@pytest.mark.parametrize(
    ("tries", "seconds"), [(1, 4), (2, 8), (3, 16), (4, 32), (10, 2048), (11, 3600), (10_000, 3600)]
)
def test_pauses_double_to_an_hour(tries: int, seconds: int) -> None:
    assert BACKOFF.after(tries, 0) == timedelta(seconds=seconds)
