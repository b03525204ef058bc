"""Environments of jobs, sealed at rest once the operator said so (docs/operating.md, Sealed environments)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from flask import Flask

from kelpie_api import encryption, logs
from kelpie_api.app import create_app
from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.queue import handouts
from kelpie_api.queue.identity import new_id
from kelpie_api.sealed import environments
from tests.auth.test_keys_and_users import everything_stored
from tests.conftest import SECRET_KEY
from tests.helpers import Client, Job, Tenant, as_row, make_job, row

NEW = "another secret of more than thirty-two characters"
BOTH = f"{NEW},{SECRET_KEY}"
CANARY = "canary-in-an-environment"
ENVIRONMENT = {"HF_TOKEN": CANARY, "LINES": "a\n'b\"é\u2028"}


def seal_all(db: Database, secret_key: str = SECRET_KEY) -> int:
    return environments.seal_all(db, Seal(secret_key), sleep=lambda seconds: None)


@pytest.fixture
def sealing(app: Flask, db: Database) -> Flask:
    """The application, with new environments sealed."""
    seal_all(db)
    return app


@pytest.fixture
def sealed_api(sealing: Flask, api: Client) -> Client:
    return api


def process(config: Config, secret_key: str) -> Flask:
    return create_app(replace(config, secret_key=secret_key))


def stored(db: Database, job_id: str) -> tuple[Any, bytes | None]:
    found = row(db, "jobs", job_id)
    assert found
    return found["environment"], found["sealed_environment"]


def shown(client: Client, job: Job) -> Any:
    return (client.get(f"/jobs/{job['id']}").json or {})["environment"]


def test_they_are_stored_as_they_are_until_sealing_began(api: Client, db: Database) -> None:
    job = api.submit(environment=ENVIRONMENT)
    assert stored(db, job["id"]) == (ENVIRONMENT, None)


def test_then_a_new_one_is_sealed_and_shown_as_before(sealed_api: Client, db: Database) -> None:
    job = sealed_api.submit(environment=ENVIRONMENT)
    environment, sealed = stored(db, job["id"])
    assert environment == {} and sealed and CANARY.encode() not in sealed
    assert job["environment"] == shown(sealed_api, job) == ENVIRONMENT
    [listed] = (sealed_api.get("/jobs").json or {})["jobs"]
    assert listed["environment"] == ENVIRONMENT and "sealed_environment" not in listed
    handed = sealed_api.claim()
    assert handed and handed["environment"] == ENVIRONMENT


def test_an_empty_one_is_not_sealed(sealed_api: Client, db: Database) -> None:
    job = sealed_api.submit()
    assert stored(db, job["id"]) == ({}, None) and shown(sealed_api, job) == {}


def test_a_batch_and_a_repeated_submission_are_sealed_and_answered_whole(sealed_api: Client, db: Database) -> None:
    body = [
        {"command": "x", "container_group_id": "g1", "environment": ENVIRONMENT | {"N": str(n)}} for n in range(3)
    ]
    for _ in range(2):
        answer = sealed_api.post("/jobs/batch", body, **{"Idempotency-Key": "k"})
        assert [job["environment"]["N"] for job in answer.json or []] == ["0", "1", "2"]
    assert all(stored(db, job["id"])[0] == {} for job in answer.json or [])


def test_its_bytes_count_towards_the_limit_of_the_tenant(sealed_api: Client, db: Database) -> None:
    job = sealed_api.submit(environment={"LARGE": "x" * 10_000})
    assert (row(db, "queue", job["id"]) or {})["bytes"] > 10_000


def test_a_viewer_reads_its_names_and_a_workers_key_no_value(
    sealing: Flask, sealed_api: Client, db: Database, tenant: Tenant
) -> None:
    job = sealed_api.submit(environment=ENVIRONMENT)
    sealed_api.claim()
    viewer, worker = (
        Client(sealing.test_client(), users.create_token(db, tenant.caller.user_id, "acme", "default", role))
        for role in (Role.VIEWER, Role.WORKER)
    )
    assert shown(viewer, job) == dict.fromkeys(ENVIRONMENT)
    assert shown(worker, job) == dict.fromkeys(ENVIRONMENT, "***")


class TestSealingWhatIsStored:
    @pytest.mark.parametrize("state", ["pending", "held", "waiting", "completed", "failed", "canceled"])
    def test_seals_jobs_in_every_state(self, api: Client, db: Database, tenant: Tenant, state: str) -> None:
        job_id = make_job(db, tenant, state, environment=ENVIRONMENT)
        before = api.get(f"/jobs/{job_id}").json
        assert seal_all(db) == 1
        environment, sealed = stored(db, str(job_id))
        assert environment == {} and sealed
        assert api.get(f"/jobs/{job_id}").json == before
        assert seal_all(db) == 0

    def test_goes_through_any_number_in_batches(
        self, api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "BATCH", 2)
        monkeypatch.setattr(environments, "STRETCH", 3)
        made = [make_job(db, tenant, environment=ENVIRONMENT if n % 3 else {}) for n in range(11)]
        assert seal_all(db) == 7
        assert [bool(stored(db, str(job_id))[1]) for job_id in made] == [bool(n % 3) for n in range(11)]

    def test_takes_what_a_process_wrote_that_had_not_learned_it_yet(self, api: Client, db: Database) -> None:
        api.submit(environment=ENVIRONMENT)

        def meanwhile(seconds: float) -> None:
            if seconds > environments.KNOWN_FOR:
                api.submit(environment=ENVIRONMENT)  # this process looked a moment ago

        assert environments.seal_all(db, Seal(SECRET_KEY), meanwhile) == 2
        assert db.all("select from jobs where environment <> '{}'") == []

    def test_leaves_a_final_job_final(self, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "completed", environment=ENVIRONMENT)
        seal_all(db)
        for change in (
            "command = 'other'",
            "sealed_environment = null",
            "sealed_environment = '\\x01', attempt = 7",
        ):
            with pytest.raises(psycopg.Error, match="takes no more changes"):
                db.execute(f"update jobs set {change} where id = %(id)s", id=job_id)


class TestTheReleaseBefore:
    def test_is_handed_no_job_once_environments_are_sealed(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        api.submit(environment=ENVIRONMENT)
        claim = "select * from claim_job(%(tenant)s, 'g1', 'm1', null, 'machine:m1', null, array['g1', ''])"
        with db.transaction() as tx, pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="sealed"):
            seal_all(db)
            tx.execute(claim, tenant=tenant.caller.tenant_id)
        assert api.claim()

    def test_is_handed_no_job_that_names_secrets_before_that(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        assert api.call("PUT", "/secrets/TOKEN", {"value": "the token"}).status_code == 200
        job = api.submit(secrets=["TOKEN"])
        claim = "select id from claim_job(%(tenant)s, 'g1', 'm1', null, 'machine:m1', null, array['g1', ''])"
        with db.transaction() as tx, pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="secrets"):
            tx.execute(claim, tenant=tenant.caller.tenant_id)
        assert db.all("select from attempts") == []
        assert (api.claim() or {})["id"] == job["id"]
        plain = api.submit()
        assert db.all(claim, tenant=tenant.caller.tenant_id) == [{"id": UUID(plain["id"])}]

    def test_shows_null_in_place_of_what_it_cannot_open(self, sealed_api: Client, db: Database) -> None:
        job = sealed_api.submit(environment=ENVIRONMENT)
        assert db.one_or_none("select environment from shown_jobs where id = %(id)s", id=job["id"]) == {
            "environment": None
        }

    def test_submits_jobs_whose_environments_it_has_sealed(
        self, sealed_api: Client, db: Database, tenant: Tenant
    ) -> None:
        job_id = new_id()
        sealed = Seal(SECRET_KEY).seal_row(job_id, environments.as_text(ENVIRONMENT))
        written = {"id": str(job_id), "environment": {}, "sealed_environment": rf"\x{sealed.hex()}", "places": []}
        plain = {"id": str(new_id()), "environment": {"PLAIN": "yes"}, "places": []}
        submitted = json.dumps([as_row() | plain, as_row() | written])
        created = db.all(
            "select (s.job).id, (s.job).sealed_environment from submitted_jobs("
            "%(tenant)s, %(submitted)s::jsonb, null, null, null, 'user:acme', 0, 0, %(user)s) s",
            tenant=tenant.caller.tenant_id, submitted=submitted, user=tenant.caller.user_id,
        )  # fmt: skip
        assert [job["sealed_environment"] for job in created] == [None, sealed]
        assert shown(sealed_api, {"id": plain["id"]}) == plain["environment"]
        assert shown(sealed_api, {"id": str(job_id)}) == ENVIRONMENT


class TestWhatCannotBeOpened:
    """A key was given up with --drop-unreadable, and environments were sealed with it."""

    @pytest.fixture
    def job(self, sealed_api: Client) -> Job:
        return sealed_api.submit(environment=ENVIRONMENT)

    @pytest.fixture
    def elsewhere(self, job: Job, db: Database, config: Config, tenant: Tenant) -> Iterator[Client]:
        """A client of a process that has the new key alone."""
        encryption.change(db, Seal(NEW), drop=True)
        app = process(config, NEW)
        yield Client(app.test_client(), tenant.key)
        app.extensions["kelpie"].end()

    def test_is_parked_and_the_next_job_handed_out(self, job: Job, elsewhere: Client, db: Database) -> None:
        plain = elsewhere.submit()
        handed = elsewhere.claim()
        assert handed and handed["id"] == plain["id"]
        queued = row(db, "queue", job["id"])
        assert queued and (queued["parked"], queued["machine_id"]) == (["unsealable"], None)
        read = elsewhere.get(f"/jobs/{job['id']}").json or {}
        assert (read["status"], read["num_failures"]) == ("running", 0)
        [attempt] = (elsewhere.get(f"/jobs/{job['id']}/attempts").json or {})["attempts"]
        assert (attempt["outcome"], attempt["reason"]) == ("released", "unsealable")
        events = (elsewhere.get(f"/jobs/{job['id']}/events").json or {})["events"]
        assert [event["kind"] for event in events] == ["submitted", "claimed", "released", "parked"]

    def test_is_shown_as_null_and_never_as_empty(self, job: Job, elsewhere: Client) -> None:
        assert (elsewhere.get(f"/jobs/{job['id']}").json or {})["environment"] is None
        [listed] = (elsewhere.get("/jobs").json or {})["jobs"]
        assert listed["environment"] is None

    def test_is_claimable_again_once_its_key_is_back(
        self, job: Job, elsewhere: Client, db: Database, config: Config, tenant: Tenant
    ) -> None:
        assert elsewhere.claim() is None
        handouts.Unsealable(db, Seal(NEW)).unpark_what_opens()
        assert elsewhere.claim() is None
        handouts.Unsealable(db, Seal(BOTH)).unpark_what_opens()
        both = process(config, BOTH)
        handed = Client(both.test_client(), tenant.key).claim()
        both.extensions["kelpie"].end()
        assert handed and (handed["id"], handed["environment"], handed["attempt"]) == (job["id"], ENVIRONMENT, 2)

    def test_does_not_keep_later_ones_from_being_looked_at(
        self, sealed_api: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handouts, "LOOKED_AT", 1)
        first, second = (sealed_api.submit(environment=ENVIRONMENT) for _ in range(2))
        db.execute("update queue set parked = '{unsealable}'")
        db.execute("update jobs set sealed_environment = '\\x00' where id = %(id)s", id=first["id"])
        looks = handouts.Unsealable(db, Seal(SECRET_KEY))
        for _ in range(2):
            looks.unpark_what_opens()
        assert (row(db, "queue", second["id"]) or {})["parked"] is None
        assert (row(db, "queue", first["id"]) or {})["parked"] == ["unsealable"]


class TestAChangeOfTheKey:
    def test_seals_those_of_open_and_finished_jobs_anew(
        self, sealed_api: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encryption, "BATCH", 2)
        jobs = [sealed_api.submit(environment=ENVIRONMENT) for _ in range(5)]
        assert sealed_api.delete(f"/jobs/{jobs[0]['id']}").status_code == 202
        changed = encryption.change(db, Seal(BOTH))
        assert changed and changed["resealed_environments"] == 5
        for job in jobs:
            opened = Seal(NEW).open_row(UUID(job["id"]), stored(db, job["id"])[1] or b"")
            assert opened and json.loads(opened) == ENVIRONMENT
        assert encryption.change(db, Seal(BOTH)) is None

    def test_counts_them_where_they_would_be_lost(self, sealed_api: Client, db: Database) -> None:
        sealed_api.submit(environment=ENVIRONMENT)
        assert encryption.unreadable(db, Seal(NEW)).environments == 1

    def test_has_processes_with_both_keys_seal_with_the_new_one(
        self, sealing: Flask, db: Database, config: Config, tenant: Tenant
    ) -> None:
        encryption.change(db, Seal(BOTH))
        both = process(config, BOTH)
        job = Client(both.test_client(), tenant.key).submit(environment=ENVIRONMENT)
        both.extensions["kelpie"].end()
        assert (stored(db, job["id"])[1] or b"").startswith(Seal(NEW).keys[0].mark)


def test_a_value_is_in_no_table_no_log_no_metric_and_no_read_of_another_kind(
    sealing: Flask, sealed_api: Client, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    job = sealed_api.submit(environment=ENVIRONMENT, webhook="http://receiver/")
    handed = sealed_api.claim()
    assert handed and handed["environment"]["HF_TOKEN"] == CANARY
    sealed_api.report(job, "failed", attempt=1, exit_code=1, reason="exit_code", detail="it failed")
    paths = [f"/jobs/{job['id']}/{part}" for part in ("attempts", "events", "webhooks")]
    texts = [sealed_api.get(path).text for path in [*paths, "/machines", "/container-groups/g1/metrics"]]
    texts += [sealing.test_client().get("/metrics").text, everything_stored(db)]
    texts += [logs.JsonLines().format(record) for record in caplog.records]
    for spelling in (CANARY, CANARY.encode().hex()):
        assert not any(spelling in text for text in texts)


def test_whether_to_seal_is_asked_at_most_every_few_seconds(
    sealing: Flask, sealed_api: Client, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_api.submit(environment=ENVIRONMENT)
    parts = sealing.extensions["kelpie"]
    with monkeypatch.context() as away:
        away.setattr(parts.environments, "db", None)
        sealed_api.submit(environment=ENVIRONMENT)
