"""Secrets of a project: set, listed by name, removed, and shown nowhere (docs/design/protocol.md, Secrets)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask

from kelpie_api import encryption, logs
from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import SQL, Database, Transaction
from kelpie_api.encryption import Seal
from kelpie_api.errors import SecretsWouldBeLost
from kelpie_api.queue import handouts, wishes
from kelpie_api.sealed import environments, secrets
from tests.auth.test_keys_and_users import everything_stored
from tests.conftest import SECRET_KEY
from tests.helpers import Client, Tenant, definition, make_tenant, refused, while_open

NEW = "another secret of more than thirty-two characters"
CANARY = "canary-in-a-secret"


def put(api: Client, name: str = "HF_TOKEN", value: Any = CANARY) -> dict[str, Any]:
    answer = api.call("PUT", f"/secrets/{name}", {"value": value})
    assert answer.status_code == 200, answer.text
    return dict(answer.json or {})


def names(api: Client) -> list[str]:
    found = api.get("/secrets").json or {}
    assert found["_count"] == len(found["secrets"])
    return [secret["name"] for secret in found["secrets"]]


def value(db: Database, tenant: Tenant, name: str = "HF_TOKEN", secret_key: str = SECRET_KEY) -> str | None:
    found = secrets.values_of(db, Seal(secret_key), tenant.caller.tenant_id, [name])
    return found and found[name]


def test_it_is_listed_by_its_name_when_and_by_whom(app: Flask, api: Client) -> None:
    shown = put(api)
    assert shown.keys() == {"name", "set", "by"} and shown["by"] == "user:acme"
    put(api, "AWS_KEY")
    assert names(api) == ["AWS_KEY", "HF_TOKEN"]
    ann = Client(app.test_client(), (api.post("/keys", {"name": "ann", "role": "operator"}).json or {})["token"])
    assert put(ann)["by"] == "user:acme key:ann"
    assert names(api) == ["AWS_KEY", "HF_TOKEN"]


def test_its_newest_value_counts(api: Client, db: Database, tenant: Tenant) -> None:
    put(api, value="one")
    put(api, value="two\n" + "é" * 1000)
    assert value(db, tenant) == "two\n" + "é" * 1000


def test_it_is_its_tenants_alone(app: Flask, api: Client, stranger: Client, db: Database) -> None:
    put(api)
    other = Client(app.test_client(), make_tenant(db, "acme", "other").key)
    for client in (stranger, other):
        assert names(client) == []
        refused(client.delete("/secrets/HF_TOKEN"), 404)
    assert names(api) == ["HF_TOKEN"]


def test_a_removed_one_is_gone(api: Client) -> None:
    put(api)
    assert api.delete("/secrets/HF_TOKEN").status_code == 204
    assert names(api) == []
    refused(api.delete("/secrets/HF_TOKEN"), 404)


def test_one_that_an_open_job_names_is_not_removed_until_the_job_has_ended(
    api: Client, db: Database, tenant: Tenant
) -> None:
    put(api)
    job = api.submit()
    name(db, tenant, job["id"])
    refusal = refused(api.delete("/secrets/HF_TOKEN"), 409)
    assert job["id"] in refusal["message"] and CANARY not in json.dumps(refusal)
    put(api, value="another")
    assert api.delete(f"/jobs/{job['id']}").status_code == 202
    assert api.delete("/secrets/HF_TOKEN").status_code == 204


def test_users_and_all_jobs_are_removed_with_what_they_name(
    api: Client, admin: Client, db: Database, tenant: Tenant
) -> None:
    put(api)
    name(db, tenant, api.submit()["id"])
    assert admin.delete("/jobs").status_code == 204
    name(db, tenant, api.submit()["id"])
    assert admin.delete("/users").status_code == 204
    assert db.all("select from secrets") == db.all("select from job_secrets") == []


def name(db: Database, tenant: Tenant, job_id: str) -> None:
    """Have an open job name the secret."""
    db.execute(
        "insert into job_secrets (job_id, tenant_id, name) values (%(job)s, %(tenant)s, 'HF_TOKEN')",
        job=job_id,
        tenant=tenant.caller.tenant_id,
    )


BAD_VALUES = ["", 7, None, ["x"], "x" * (64 * 1024 + 1), "é" * (32 * 1024 + 1)]


@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda bad: repr(bad)[:12])
def test_a_value_that_is_none_is_a_400(api: Client, bad: Any) -> None:
    refused(api.call("PUT", "/secrets/HF_TOKEN", {"value": bad}), 400)
    refused(api.call("PUT", "/secrets/HF_TOKEN", {}), 400)


def test_a_refusal_does_not_repeat_the_value(api: Client) -> None:
    for body in ({"value": 31415926}, {"value": ["31415926"]}, {"valeu": "31415926"}, "31415926"):
        answer = api.call("PUT", "/secrets/HF_TOKEN", body)
        assert answer.status_code == 400 and "31415926" not in answer.text


@pytest.mark.parametrize("bad", ["1A", "A-B", "A%3DB", "A%20", "A%0A", "x" * 129, "%C3%A9"])
def test_a_name_that_no_variable_has_is_a_400(api: Client, bad: str) -> None:
    assert "secret_name" in refused(api.call("PUT", f"/secrets/{bad}", {"value": "x"}), 400)["errors"]


def test_a_path_without_its_name_is_a_400(api: Client) -> None:
    put(api)
    assert "secret_name" in refused(api.delete("/secrets/"), 400)["errors"]
    assert "secret_name" in refused(api.call("PUT", "/secrets/", {"value": "x"}), 400)["errors"]
    assert names(api) == ["HF_TOKEN"]


def test_a_tenant_has_so_many_and_no_more(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MOST_SECRETS", 1)
    put(api)
    refused(api.call("PUT", "/secrets/OTHER", {"value": "x"}), 409)
    put(api, value="again")


def test_a_viewer_reads_the_names_and_a_worker_nothing(
    app: Flask, api: Client, db: Database, tenant: Tenant
) -> None:
    put(api)
    viewer, worker = (
        Client(app.test_client(), users.create_token(db, tenant.caller.user_id, "acme", "default", role))
        for role in (Role.VIEWER, Role.WORKER)
    )
    assert names(viewer) == ["HF_TOKEN"]
    refused(viewer.call("PUT", "/secrets/HF_TOKEN", {"value": "x"}), 403)
    refused(viewer.delete("/secrets/HF_TOKEN"), 403)
    refused(worker.get("/secrets"), 403)


def test_it_is_in_no_answer_no_table_and_no_log(
    app: Flask, api: Client, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    answers = json.dumps(put(api)) + api.get("/secrets").text + app.test_client().get("/metrics").text
    logged = "\n".join(logs.JsonLines().format(record) for record in caplog.records)
    assert "/secrets/HF_TOKEN" in logged
    stored = everything_stored(db)
    for spelling in (CANARY, CANARY.encode().hex()):
        assert spelling not in answers and spelling not in stored and spelling not in logged


class TestWhatIsSealedForARow:
    def test_opens_for_that_row_with_that_key_and_whole(self) -> None:
        row, seal = uuid4(), Seal(SECRET_KEY)
        sealed = seal.seal_row(row, CANARY)
        assert seal.open_row(row, sealed) == CANARY
        assert seal.open_row(uuid4(), sealed) is None
        assert Seal(NEW).open_row(row, sealed) is None
        assert Seal(f"{NEW},{SECRET_KEY}").open_row(row, sealed) == CANARY
        for place in range(0, len(sealed), 5):
            changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
            assert seal.open_row(row, changed) is None
        assert all(seal.open_row(row, sealed[:length]) is None for length in range(len(sealed)))

    def test_never_looks_the_same_twice(self) -> None:
        row, seal = uuid4(), Seal(SECRET_KEY)
        assert len({seal.seal_row(row, CANARY) for _ in range(100)}) == 100

    def test_of_an_empty_text_is_none_the_less_sealed(self) -> None:
        row, seal = UUID(int=0), Seal(SECRET_KEY)
        assert seal.open_row(row, seal.seal_row(row, "")) == ""


class TestAChangeOfTheKey:
    def test_seals_it_anew_and_the_new_key_alone_opens_it(self, api: Client, db: Database, tenant: Tenant) -> None:
        for number in range(3):
            put(api, f"S{number}")
        changed = encryption.change(db, Seal(f"{NEW},{SECRET_KEY}"))
        assert changed and changed["resealed_job_secrets"] == 3
        assert value(db, tenant, "S1", NEW) == CANARY and value(db, tenant, "S1", SECRET_KEY) is None
        assert encryption.change(db, Seal(f"{NEW},{SECRET_KEY}")) is None

    def test_goes_through_more_than_a_batch(
        self, api: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encryption, "BATCH", 2)
        for number in range(5):
            put(api, f"S{number}")
        changed = encryption.change(db, Seal(f"{NEW},{SECRET_KEY}"))
        assert changed and changed["resealed_job_secrets"] == 5

    def test_counts_it_where_it_would_be_lost(self, api: Client, db: Database, tenant: Tenant) -> None:
        put(api)
        with pytest.raises(SecretsWouldBeLost, match="nor 1 of the secrets and 0 of"):
            encryption.change(db, Seal(NEW))
        assert value(db, tenant) == CANARY

    def test_that_gives_up_what_it_cannot_open_leaves_it_for_the_day_that_its_key_is_back(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        put(api)
        assert encryption.change(db, Seal(NEW), drop=True) == {"secrets": 0, "keys": 0}
        assert value(db, tenant, secret_key=NEW) is None
        assert encryption.change(db, Seal(f"{NEW},{SECRET_KEY}")) == {
            "resealed_secrets": 0,
            "resealed_keys": 0,
            "resealed_job_secrets": 1,
        }
        assert value(db, tenant, secret_key=NEW) == CANARY


class TestAJobThatNamesOne:
    def test_gets_its_value_with_each_claim_and_shows_its_name_alone(self, api: Client) -> None:
        put(api)
        job = api.submit(secrets=["HF_TOKEN"], environment={"STEPS": "7"})
        assert job["secrets"] == ["HF_TOKEN"] and job["environment"] == {"STEPS": "7"}
        handed = api.claim()
        assert handed and handed["environment"] == {"STEPS": "7", "HF_TOKEN": CANARY}
        assert (api.get(f"/jobs/{job['id']}").json or {})["environment"] == {"STEPS": "7"}
        assert api.report(job, "released", attempt=1).status_code == 200
        put(api, value="the value at the next claim")
        again = api.claim()
        assert again and again["environment"]["HF_TOKEN"] == "the value at the next claim"

    def test_gets_it_again_with_a_repeated_claim(self, api: Client) -> None:
        put(api)
        api.submit(secrets=["HF_TOKEN"])
        claim_id = uuid4()
        first, second = (api.claim(claim_id=claim_id) for _ in range(2))
        assert first and second and first["environment"] == second["environment"] == {"HF_TOKEN": CANARY}
        assert first["attempt"] == second["attempt"] == 1

    def test_gets_it_beside_a_sealed_environment(self, api: Client, db: Database) -> None:
        environments.seal_all(db, Seal(SECRET_KEY), lambda seconds: None)
        put(api)
        job = api.submit(secrets=["HF_TOKEN"], environment={"STEPS": "7"})
        handed = api.claim()
        assert handed and handed["environment"] == {"STEPS": "7", "HF_TOKEN": CANARY}
        assert (api.get(f"/jobs/{job['id']}").json or {})["environment"] == {"STEPS": "7"}

    def test_is_refused_where_there_is_none_of_that_name(self, api: Client, stranger: Client) -> None:
        put(stranger)
        body = refused(
            api.post("/jobs", {"command": "x", "container_group_id": "g1", "secrets": ["HF_TOKEN"]}), 400
        )
        assert body["errors"].keys() == {"secrets"} and "PUT /secrets/HF_TOKEN" in body["message"]
        one = {"command": "x", "container_group_id": "g1"}
        batch = refused(api.post("/jobs/batch", [one, one | {"secrets": ["HF_TOKEN"]}]), 400)
        assert batch["index"] == 1
        assert (api.get("/jobs").json or {})["jobs"] == []

    @pytest.mark.parametrize(
        "bad",
        [
            "HF_TOKEN",
            ["HF_TOKEN", "HF_TOKEN"],
            ["A B"],
            [7],
            [""],
            [f"S{n}" for n in range(101)],
            {"HF_TOKEN": "x"},
        ],
        ids=repr,
    )
    def test_is_refused_where_it_names_them_wrongly(self, api: Client, bad: Any) -> None:
        put(api)
        body = refused(api.post("/jobs", {"command": "x", "container_group_id": "g1", "secrets": bad}), 400)
        assert all(field.startswith("secrets") for field in body["errors"])

    def test_is_refused_where_its_environment_has_that_name(self, api: Client) -> None:
        put(api)
        job = {
            "command": "x",
            "container_group_id": "g1",
            "secrets": ["HF_TOKEN"],
            "environment": {"HF_TOKEN": "y"},
        }
        assert refused(api.post("/jobs", job), 400)["errors"].keys() == {"secrets"}

    def test_keeps_it_from_being_removed_until_it_has_ended(self, api: Client) -> None:
        put(api)
        job = api.submit(secrets=["HF_TOKEN"])
        assert job["id"] in refused(api.delete("/secrets/HF_TOKEN"), 409)["message"]
        api.claim()
        assert api.report(job, "completed", attempt=1).status_code == 200
        assert api.delete("/secrets/HF_TOKEN").status_code == 204

    def test_and_its_removal_at_the_same_moment_have_one_outcome(self, api: Client, db: Database) -> None:
        """The submission waits for the removal, and is refused; nothing of it is written."""
        put(api)
        job = {"command": "x", "container_group_id": "g1", "secrets": ["HF_TOKEN"]}

        def remove(tx: Transaction) -> int:
            return tx.execute("delete from secrets")

        removed, answer = while_open(db, remove, lambda: api.post("/jobs", job))
        assert removed == 1 and "removed at this moment" in refused(answer, 409)["message"]
        assert db.all("select from jobs") == db.all("select from queue") == []

    def test_is_parked_where_its_value_cannot_be_opened_and_goes_on_once_it_is_set_again(
        self, api: Client, db: Database
    ) -> None:
        put(api)
        job = api.submit(secrets=["HF_TOKEN"], max_attempts=1)
        db.execute("update secrets set sealed = '\\x00'")
        assert api.claim() is None
        wishes.end_due(db)
        assert (api.get(f"/jobs/{job['id']}").json or {})["parked"] == ["unsealable"]
        put(api, value="new")
        handouts.Unsealable(db, Seal(SECRET_KEY)).unpark_what_opens()
        handed = api.claim()
        assert handed and handed["environment"] == {"HF_TOKEN": "new"}

    def test_leaves_its_value_in_the_answer_to_its_claim_alone(
        self, app: Flask, api: Client, db: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(api)
        job = api.submit(secrets=["HF_TOKEN"], webhook="http://receiver/")
        assert CANARY in json.dumps(api.claim())
        assert api.report(job, "completed", attempt=1).status_code == 200
        parts = ("", "/attempts", "/events", "/webhooks")
        texts = [api.get(f"/jobs/{job['id']}{part}").text for part in parts]
        texts += [api.get(path).text for path in ("/jobs", "/machines", "/secrets", "/metrics")]
        texts += [everything_stored(db), *(logs.JsonLines().format(record) for record in caplog.records)]
        for spelling in (CANARY, CANARY.encode().hex()):
            assert not any(spelling in text for text in texts)


class TestTheDefaultsOfAGroup:
    def test_name_a_secret_that_is_there_and_keep_it_from_being_removed(
        self, api: Client, db: Database, tenant: Tenant
    ) -> None:
        unknown = refused(name_by_default(api), 400)
        assert unknown["errors"].keys() == {"defaults.secrets"} and "PUT /secrets/HF_TOKEN" in unknown["message"]
        put(api)
        assert name_by_default(api).status_code == 200
        assert "PATCH /container-groups/g1" in refused(api.delete("/secrets/HF_TOKEN"), 409)["message"]
        assert name_by_default(api, []).status_code == 200

        def name_it(tx: Transaction) -> set[str]:
            values = {"tenant_id": tenant.caller.tenant_id, "container_group": "g2", "actor": "user:ann"}
            tx.execute(SQL.set_defaults, **values, defaults='{"secrets": ["HF_TOKEN"]}')
            return secrets.keep(tx, tenant.caller.tenant_id, ["HF_TOKEN"])

        missing, answer = while_open(db, name_it, lambda: api.delete("/secrets/HF_TOKEN"))
        assert missing == set() and "/container-groups/g2" in refused(answer, 409)["message"]
        api.patch("/container-groups/g2", {"defaults": {}})
        assert api.delete("/secrets/HF_TOKEN").status_code == 204

    def test_refuse_a_job_where_theirs_is_gone_or_a_variable_of_the_jobs_own(
        self, api: Client, db: Database
    ) -> None:
        environments.seal_all(db, Seal(SECRET_KEY), lambda seconds: None)
        put(api)
        earlier = api.submit(environment={"HF_TOKEN": "own"})
        name_by_default(api)
        own = definition(environment={"HF_TOKEN": "own"})
        for body in (own, own | {"container_group_id": "G1"}):
            given = refused(api.post("/jobs", body), 400)
            assert "HF_TOKEN is in environment" in given["message"] and "index" not in given
        assert api.delete(f"/jobs/{earlier['id']}").status_code == 202
        assert "HF_TOKEN is in" in refused(api.post(f"/jobs/{earlier['id']}/rerun"), 409)["message"]
        db.execute("delete from secrets")  # as releases before allowed
        batch = refused(api.post("/jobs/batch", [definition(container_group_id=None), definition()]), 400)
        assert batch["errors"].keys() == {"secrets"} and batch["index"] == 1
        assert "defaults of container group g1 name the secret HF_TOKEN, which is not there" in batch["message"]
        assert len(db.all("select from jobs")) == 1
        api.submit(**own, secrets=[])
        claimed = api.claim()
        assert claimed and claimed["environment"] == {"HF_TOKEN": "own"}
        put(api)
        api.submit(environment={"STEPS": "7"})
        claimed = api.claim()
        assert claimed and claimed["environment"] == {"STEPS": "7", "HF_TOKEN": CANARY}


def name_by_default(api: Client, names: Sequence[str] = ("HF_TOKEN",)) -> Any:
    return api.patch("/container-groups/g1", {"defaults": {"secrets": names}})
