"""A submission with an Idempotency-Key can be sent again and creates its jobs once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.errors import ConnectionLost
from kelpie_api.queue import submissions
from kelpie_api.queue.maintenance import Maintenance
from tests.helpers import (
    Client,
    Tenant,
    as_row,
    at_once,
    definition,
    make_tenant,
    refused,
    rows_of_jobs,
    wait_until_blocked,
    while_open,
)

PATHS = ["/jobs", "/job", "/jobs/batch"]
ONCE = submissions.IdempotencyKey("key", b"digest")


def body_for(path: str, **fields: Any) -> Any:
    return [definition(**fields)] * 3 if path == "/jobs/batch" else definition(**fields)


def submit(client: Client, body: Any = None, key: str = "key", path: str = "/jobs") -> TestResponse:
    return client.call("POST", path, body or body_for(path), {"Idempotency-Key": key})


def replayed(answer: TestResponse) -> bool:
    assert answer.status_code == 202, answer.text
    assert answer.headers.get("Idempotent-Replayed") in (None, "true")
    return "Idempotent-Replayed" in answer.headers


def number_of_jobs(db: Database) -> int:
    return len(rows_of_jobs(db)["jobs"])


@pytest.mark.parametrize("path", PATHS)
def test_the_same_submission_again_answers_the_same_jobs(api: Client, db: Database, path: str) -> None:
    first, second = submit(api, path=path), submit(api, path=path)
    assert (replayed(first), replayed(second)) == (False, True)
    assert first.json == second.json
    assert number_of_jobs(db) == (3 if path == "/jobs/batch" else 1)
    assert len(rows_of_jobs(db)["events"]) == number_of_jobs(db) == len(rows_of_jobs(db)["queue"])


def test_both_paths_of_a_submission_are_the_same_route(api: Client) -> None:
    first = submit(api, path="/job")
    assert replayed(second := submit(api, path="/jobs"))
    assert first.json == second.json


def test_a_batch_is_answered_in_its_order(api: Client) -> None:
    batch = [definition(arguments=[str(number)]) for number in range(20)]
    submit(api, batch, path="/jobs/batch")
    again = submit(api, batch, path="/jobs/batch")
    assert [job["arguments"] for job in again.json or []] == [job["arguments"] for job in batch]


def test_warnings_are_said_again(api: Client) -> None:
    first, second = (submit(api, definition(gpu="RTX 4090")) for _ in range(2))
    assert (first.json or {})["warnings"] == (second.json or {})["warnings"] != []


def test_without_the_header_every_submission_is_new(api: Client, db: Database) -> None:
    answers = [api.post("/jobs", definition()) for _ in range(2)]
    assert [replayed(answer) for answer in answers] == [False, False]
    assert number_of_jobs(db) == 2


def test_another_key_is_another_submission(api: Client, db: Database) -> None:
    assert not replayed(submit(api, key="one")) and not replayed(submit(api, key="two"))
    assert number_of_jobs(db) == 2


def test_the_layout_of_the_body_does_not_matter(api: Client) -> None:
    submit(api, b'{"command": "work", "container_group_id": "g1"}')
    assert replayed(submit(api, b'\n{"container_group_id":"g1",\t"command":"work"}'))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", definition(command="other")),
        ("/jobs", definition(max_failures=3)),  # the default, but it was not said before
        ("/jobs", definition(unknown=1)),
        ("/jobs/batch", [definition()]),
    ],
)
def test_another_body_is_a_422_and_creates_nothing(api: Client, db: Database, path: str, body: Any) -> None:
    submit(api)
    assert "another body" in refused(submit(api, body, path=path), 422)["message"]
    assert number_of_jobs(db) == 1


@pytest.mark.parametrize("key", ["x", "x" * 255, "!~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
def test_a_key_is_visible_ascii(api: Client, key: str) -> None:
    assert (replayed(submit(api, key=key)), replayed(submit(api, key=key))) == (False, True)


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ä", "\x7f", "a\tb", "\xa0", "k\x00"])
@pytest.mark.parametrize("path", PATHS)
def test_anything_else_is_a_400(api: Client, db: Database, key: str, path: str) -> None:
    assert "Idempotency-Key" in refused(submit(api, key=key, path=path), 400)["errors"]
    assert number_of_jobs(db) == 0


def test_keys_of_different_tenants_never_meet(
    app: Flask, api: Client, stranger: Client, admin: Client, db: Database, tenant: Tenant
) -> None:
    project = Client(app.test_client(), make_tenant(db, tenant.caller.username, "other").key)
    bodies = [definition(arguments=[str(number)]) for number in range(4)]
    for client, body in zip((api, stranger, admin, project), bodies, strict=True):
        assert not replayed(submit(client, body))
    for client, body in zip((api, stranger, admin, project), bodies, strict=True):
        again = submit(client, body)
        assert replayed(again) and (again.json or {})["arguments"] == body["arguments"]


def test_two_keys_of_one_tenant_share_their_submissions(
    app: Flask, api: Client, db: Database, tenant: Tenant
) -> None:
    second = Client(app.test_client(), make_tenant(db, tenant.caller.username, "default").key)
    submit(api)
    assert replayed(submit(second))


def test_a_job_that_was_removed_meanwhile_is_a_409(api: Client, db: Database) -> None:
    submit(api, path="/jobs/batch")
    api.claim()
    api.delete("/jobs/container-groups/g1")
    assert "removed" in refused(submit(api, path="/jobs/batch"), 409)["message"]
    assert number_of_jobs(db) == 1


def age(db: Database, hours: float) -> None:
    db.execute("update submissions set created = now() - %(hours)s * interval '1 hour'", hours=hours)


def test_after_a_day_a_key_is_new_again_also_with_another_body(api: Client, db: Database) -> None:
    first = submit(api)
    age(db, 23.9)
    assert replayed(submit(api))
    age(db, 24.1)
    other = submit(api, definition(command="other"))
    assert not replayed(other)
    assert (other.json or {})["id"] != (first.json or {})["id"]
    assert replayed(submit(api, definition(command="other")))


def test_old_keys_are_forgotten_and_younger_ones_are_not(api: Client, db: Database) -> None:
    submit(api, key="old")
    age(db, 26)
    submit(api, key="young")
    Maintenance(db).forget()
    assert [row["key"] for row in db.all("select key from submissions")] == ["young"]
    assert number_of_jobs(db) == 2


class TestAtTheSameMoment:
    def create_in(self, tx: Transaction, tenant: Tenant) -> str:
        """A submission with ONCE whose transaction the test ends when it likes."""
        [job] = tx.all(SQL.submit_jobs, **submissions._submission(tenant.caller, [as_row()], ONCE))
        return str(job["id"])

    def test_the_second_waits_for_the_first_and_gets_its_job(self, db: Database, tenant: Tenant) -> None:
        ours, (theirs, again) = while_open(
            db,
            lambda tx: self.create_in(tx, tenant),
            lambda: submissions.submit_once(db, tenant.caller, [as_row()], ONCE),
        )
        assert again and [str(job["id"]) for job in theirs] == [ours]
        assert number_of_jobs(db) == 1

    def test_where_the_first_is_rolled_back_the_second_creates(self, db: Database, tenant: Tenant) -> None:
        with ThreadPoolExecutor(1) as pool, db.transaction() as tx:
            self.create_in(tx, tenant)
            rival = pool.submit(submissions.submit_once, db, tenant.caller, [as_row()], ONCE)
            wait_until_blocked(db)
            tx.connection.execute("rollback")
            [job], again = rival.result()
            tx.connection.execute("begin")
        assert not again
        assert [row["id"] for row in rows_of_jobs(db)["jobs"]] == [job["id"]]

    def test_of_sixteen_one_creates(self, app: Flask, api: Client, db: Database) -> None:
        clients = [Client(app.test_client(), api.key) for _ in range(16)]
        answers = at_once([lambda client=client: submit(client, path="/jobs/batch") for client in clients])
        assert sorted(replayed(answer) for answer in answers) == [False] + [True] * 15
        assert len({json.dumps(answer.json) for answer in answers}) == 1
        assert number_of_jobs(db) == 3


class LosesTheAnswer(Database):
    """The connection breaks after the statement was carried out and before its answer arrived, once."""

    lost = False

    def unrepeatable(self, work: Any, limit: float = 10.0) -> Any:
        done = super().unrepeatable(work, limit)
        if not self.lost:
            self.lost = True
            raise ConnectionLost("lost")
        return done


def test_a_lost_connection_creates_no_second_job_and_is_no_replay(
    migrated_url: str, db: Database, tenant: Tenant
) -> None:
    flaky = LosesTheAnswer(migrated_url)
    flaky.open()
    [job], again = submissions.submit_once(flaky, tenant.caller, [as_row()], ONCE)
    flaky.close()
    assert flaky.lost and not again
    assert [row["id"] for row in rows_of_jobs(db)["jobs"]] == [job["id"]]
