"""The delivery log of a job, and sending a webhook again."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask

from kelpie_api.db import SQL, Database
from kelpie_api.webhooks import log as webhooks_log
from kelpie_api.webhooks.fairness import Lanes
from kelpie_api.webhooks.log import number_that_fits
from kelpie_api.webhooks.sender import GIVE_UP_AFTER, HOLD, Sender
from local_stack.processes import wait_for
from tests.doubles.receiver import Receiver, make_due, outbox, run_job, send_round
from tests.helpers import Client, Tenant, make_tenant, refused, rows_of_jobs


def log(api: Client, job_id: str) -> list[dict[str, Any]]:
    answer = api.get(f"/jobs/{job_id}/webhooks")
    assert answer.status_code == 200
    body = answer.json or {}
    assert body["_count"] == len(body["webhooks"])
    return list(body["webhooks"])


def redeliver(api: Client, job_id: str, webhook_id: object) -> None:
    answer = api.post(f"/jobs/{job_id}/webhooks/{webhook_id}/redeliver")
    assert answer.status_code == 202 and (answer.json or {})["message"]


class TestLog:
    def test_it_tells_of_every_webhook_and_every_try(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500, 200, 410]
        job_id = run_job(api, receiver, "completed")
        for _ in range(3):
            send_round(sender)
            make_due(db)
        running, completed = log(api, job_id)
        assert running.keys() == completed.keys()
        assert list(running) == [
            *("id", "status", "event", "url", "machine_id", "container_group_id", "created", "state", "tries"),
            *("next_try", "delivered", "given_up", "attempts"),
        ]
        assert [running["id"], completed["id"]] == [receiver.ids[0], receiver.ids[2]]
        assert (running["status"], running["state"], running["tries"]) == ("running", "delivered", 2)
        assert running["url"] == receiver.url and running["container_group_id"] == "g1"
        assert running["delivered"].endswith("Z") and running["given_up"] is running["next_try"] is None
        assert [(a["number"], a["answer"], a["error"]) for a in running["attempts"]] == [
            (1, 500, None),
            (2, 200, None),
        ]
        assert running["created"] <= running["attempts"][0]["at"] <= running["delivered"]
        assert (completed["state"], completed["delivered"], completed["tries"]) == ("given_up", None, 1)
        assert completed["given_up"] and completed["container_group_id"] == "g-of-the-report"

    def test_a_try_without_an_answer_says_why(self, api: Client, sender: Sender) -> None:
        job = api.submit(webhook="http://user:secret@127.0.0.1:1/")
        api.claim()
        send_round(sender)
        [webhook] = log(api, job["id"])
        assert webhook["state"] == "pending" and webhook["next_try"]
        assert webhook["url"] == job["webhook"]
        [attempt] = webhook["attempts"]
        assert attempt["answer"] is None and "Connection refused" in attempt["error"]
        assert "secret" not in attempt["error"]

    def test_of_a_webhook_that_was_sent_again_and_again_the_newest_tries_are_shown(
        self, api: Client, db: Database, sender: Sender
    ) -> None:
        job = api.submit(webhook="http://127.0.0.1:1/")
        api.claim()
        send_round(sender)
        db.execute(
            "insert into deliveries (webhook_id, number, answer)"
            " select id, n, 500 from webhooks cross join generate_series(2, 150) n"
        )
        [webhook] = log(api, job["id"])
        assert [tried["number"] for tried in webhook["attempts"]] == list(range(51, 151))

    @pytest.mark.parametrize(
        ("tries", "fits"),
        [([], 1), ([0, 1, 2], 3), ([2000, 30], 2), ([100] * 1001, 1000), ([99] * 1100, 1010)],
    )
    def test_a_page_holds_so_many_tries_in_all(self, tries: list[int], fits: int) -> None:
        assert number_that_fits(tries) == fits

    def test_a_page_that_is_cut_short_for_its_tries_leads_to_the_next(
        self, api: Client, db: Database, sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = api.submit(webhook="http://127.0.0.1:1/")
        api.claim()
        send_round(sender)
        db.execute(
            "insert into webhooks (job_id, url, status, machine_id, container_group, next_try, delivered, tries)"
            " select job_id, url, status, machine_id, container_group, null, now(), 1 from webhooks"
        )
        monkeypatch.setattr(webhooks_log, "MOST_TRIES_OF_A_PAGE", 1)
        first = api.get(f"/jobs/{job['id']}/webhooks")
        assert (first.json or {})["_count"] == 1
        rest = api.get(first.headers["Link"].partition(">")[0].lstrip("<"))
        assert (rest.json or {})["_count"] == 1 and "Link" not in rest.headers


class TestRedelivery:
    @pytest.mark.parametrize("status", [200, 410])
    def test_a_finished_webhook_is_sent_again_with_its_id_and_the_key_of_the_caller(
        self,
        api: Client,
        app: Flask,
        db: Database,
        tenant: Tenant,
        receiver: Receiver,
        sender: Sender,
        status: int,
    ) -> None:
        receiver.answers = [status]
        job_id = run_job(api, receiver, "heartbeat")
        send_round(sender)
        second = Client(app.test_client(), make_tenant(db, tenant.caller.username, "default").key)
        redeliver(second, job_id, receiver.ids[0])
        assert log(api, job_id)[0]["state"] == "pending"
        send_round(sender)
        assert len(receiver.ids) == 2 and len(set(receiver.ids)) == 1
        assert [got["headers"]["x-kelpie-key"] for got in receiver.got] == [api.key, second.key]
        assert receiver.got[0]["body"] == receiver.got[1]["body"]
        [webhook] = log(api, job_id)
        assert webhook["state"] == "delivered" and [a["answer"] for a in webhook["attempts"]] == [status, 200]
        assert outbox(db)[0]["sealed_key"] is None

    def test_it_gets_a_fresh_day_and_short_pauses(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [410, 500]
        job_id = run_job(api, receiver, "heartbeat")
        send_round(sender)
        db.execute(
            "update webhooks set created = created - interval '3 days', due_since = due_since - interval '3 days',"
            " tries = 30"
        )
        redeliver(api, job_id, receiver.ids[0])
        sender.give_up_old(sender.give_up_at)
        send_round(sender)
        [webhook] = outbox(db)
        assert webhook["tries"] == 31
        assert timedelta(0) < webhook["pause"] < timedelta(seconds=10)
        db.execute("update webhooks set due_since = due_since - %(age)s, next_try = now()", age=GIVE_UP_AFTER)
        receiver.answers = [500]
        send_round(sender)
        assert outbox(db)[0]["given_up"]

    def test_one_that_waits_is_sent_at_once_with_its_key_whatever_was_before_it(
        self, api: Client, admin: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500]
        job_id = run_job(api, receiver, "completed")
        send_round(sender)
        assert send_round(sender) == 0
        redeliver(admin, job_id, outbox(db)[1]["id"])
        assert send_round(sender) == 1
        assert receiver.statuses == ["running", "completed"]
        assert {got["headers"]["x-kelpie-key"] for got in receiver.got} == {api.key}

    def test_one_that_waits_keeps_its_place_before_others(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [500]
        job_id = run_job(api, receiver, "completed")
        send_round(sender)
        redeliver(api, job_id, outbox(db)[0]["id"])
        assert [send_round(sender), send_round(sender)] == [1, 1]
        assert receiver.statuses == ["running", "running", "completed"]

    def test_the_key_of_the_administrator_goes_to_no_receiver(
        self, admin: Client, receiver: Receiver, sender: Sender
    ) -> None:
        job_id = run_job(admin, receiver, "completed")
        while send_round(sender):
            continue
        redeliver(admin, job_id, receiver.ids[0])
        send_round(sender)
        assert len(receiver.got) == 3
        assert {got["headers"]["x-kelpie-key"] for got in receiver.got} == {""}

    def test_one_that_is_being_sent_is_not_sent_twice(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        job_id = run_job(api, receiver, "heartbeat")
        [taken] = db.all(SQL.take_webhooks, hold=HOLD, **Lanes().room())
        redeliver(api, job_id, taken["id"])
        assert send_round(sender) == 0
        sender.deliver(taken)
        assert len(receiver.got) == 1 and outbox(db)[0]["delivered"]

    def test_it_neither_waits_for_others_of_the_job_nor_keeps_them_waiting(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        receiver.answers = [200, 500, 500, 200]
        job_id = run_job(api, receiver, "completed")
        send_round(sender)
        redeliver(api, job_id, receiver.ids[0])
        assert send_round(sender) == 2  # `running` again, and `completed` beside it
        assert sorted(receiver.statuses[1:]) == ["completed", "running"]
        make_due(db)
        db.execute("update webhooks set next_try = next_try + interval '1 hour' where status = 'running'")
        assert send_round(sender) == 1
        assert receiver.statuses[-1] == "completed"

    def test_what_a_sender_that_held_it_too_long_says_is_not_written(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        run_job(api, receiver, "heartbeat")
        [late] = db.all(SQL.take_webhooks, hold=HOLD, **Lanes().room())
        make_due(db)
        send_round(sender)
        after = outbox(db)
        sender.deliver(late)
        assert [{**row, "pause": None} for row in outbox(db)] == [{**row, "pause": None} for row in after]
        assert len(db.all("select from deliveries")) == 1

    def test_a_webhook_of_another_job_or_of_none_is_unknown(
        self, api: Client, stranger: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        job_id, other = run_job(api, receiver, "heartbeat"), str(api.submit()["id"])
        send_round(sender)
        before = rows_of_jobs(db)
        for client, job, webhook in (
            (api, other, receiver.ids[0]),
            (api, job_id, str(uuid.uuid4())),
            (api, job_id, "nonsense"),
            (stranger, job_id, receiver.ids[0]),
        ):
            refused(client.post(f"/jobs/{job}/webhooks/{webhook}/redeliver"), 404)
        refused(stranger.get(f"/jobs/{job_id}/webhooks"), 404)
        assert rows_of_jobs(db) == before

    def test_its_owner_may_ask_while_the_sender_is_at_work(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender
    ) -> None:
        job_id = run_job(api, receiver, "heartbeat")
        with ThreadPoolExecutor(4) as pool:
            for count in range(1, 6):
                sender.round(pool)
                wait_for(lambda: outbox(db)[0]["delivered"], "the delivery")
                redeliver(api, job_id, receiver.ids[0])
                assert len(receiver.got) == count
        assert [a["number"] for a in log(api, job_id)[0]["attempts"]] == [1, 2, 3, 4, 5]


class TestWhatTheDatabaseRefuses:
    @pytest.mark.parametrize(
        "change",
        [
            "delivered = now()",
            "given_up = now()",
            "next_try = null",
            "delivered = now(), given_up = now(), next_try = null, sealed_key = null",
            "delivered = now(), next_try = null, sealed_key = 'x'",
            "tries_before = tries + 1",
            "lane = null",
        ],
    )
    def test_a_state_that_is_none(self, api: Client, db: Database, receiver: Receiver, change: str) -> None:
        run_job(api, receiver, "heartbeat")
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute(f"update webhooks set {change}")
