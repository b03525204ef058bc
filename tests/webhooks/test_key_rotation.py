"""KELPIE_SECRET_KEY=NEW,OLD: the way from one key to another on which nothing is lost, process by process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from kelpie_api import encryption
from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.encryption import Key, Seal, keys_in
from kelpie_api.errors import ConfigError, SecretsWouldBeLost
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks.sender import Sender
from tests.conftest import SECRET_KEY
from tests.doubles.receiver import Receiver, make_due, outbox, run_job, send_round
from tests.doubles.salad import SaladDouble
from tests.helpers import Client, Tenant, refused, with_salad_key

NEW = "another secret of more than thirty-two characters"
BOTH = f"{NEW},{SECRET_KEY}"
SALAD_KEY = "salad-key"


@pytest.fixture
def settings(salad: SaladDouble) -> dict[str, Any]:
    salad.allow(SALAD_KEY, "acme", "default")
    return {"salad_api_url": salad.api_url}


@pytest.fixture
def both_app(app: Flask, config: Config) -> Iterator[Flask]:
    """A process with both keys, beside `app`, which was started with the old one alone."""
    both = create_app(replace(config, secret_key=BOTH))
    yield both
    both.extensions["kelpie"].end()


@pytest.fixture
def both(both_app: Flask, tenant: Tenant) -> Client:
    return Client(both_app.test_client(), tenant.key)


def secret_of(client: Client) -> str:
    answer = client.get("/users/me/signing-secret").json
    assert answer
    return str(answer["secret"])


def sent_key(db: Database, receiver: Receiver, secret_key: str) -> str:
    """What a sender with this key sends along."""
    make_due(db)
    assert send_round(Sender(db, Seal(secret_key), PublicHttp(True))) == 1
    return str(receiver.got[-1]["headers"]["x-kelpie-key"])


class TestBesideAProcessWithTheOldKeyAlone:
    def test_its_sender_reads_what_the_new_process_seals(
        self, both: Client, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        run_job(both, receiver, "heartbeat")
        assert sent_key(db, receiver, SECRET_KEY) == tenant.key

    def test_the_new_sender_reads_what_it_seals(
        self, api: Client, both_app: Flask, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        run_job(api, receiver, "heartbeat")
        assert sent_key(db, receiver, BOTH) == tenant.key

    def test_signing_secrets_are_the_same_whichever_process_made_them(self, api: Client, both: Client) -> None:
        made = secret_of(both)
        assert secret_of(api) == made
        for one, other in ((both, api), (api, both)):
            rotated = one.post("/users/me/signing-secret").json
            assert rotated and other.get("/users/me/signing-secret").json == rotated
            assert secret_of(other) != made

    def test_what_salad_vouched_for_before_is_believed_while_salad_is_away(
        self, app: Flask, both_app: Flask, salad: SaladDouble
    ) -> None:
        assert with_salad_key(app, SALAD_KEY).get("/users/me").status_code == 200
        salad.stop()
        assert with_salad_key(both_app, SALAD_KEY).get("/users/me").status_code == 200

    def test_a_refusal_ends_what_was_vouched_for_under_either_key(
        self, app: Flask, both_app: Flask, salad: SaladDouble, db: Database
    ) -> None:
        assert with_salad_key(app, SALAD_KEY).get("/users/me").status_code == 200
        db.execute("update salad_proofs set proven = now() - interval '1 hour'")
        salad.revoke(SALAD_KEY)
        refused(with_salad_key(both_app, SALAD_KEY).get("/users/me"), 403)
        assert db.all("select from salad_proofs") == []


class TestTheChange:
    def test_lets_the_new_key_alone_read_all_that_the_old_one_sealed(
        self, api: Client, both: Client, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        run_job(api, receiver, "heartbeat")
        secret_of(api)
        rotated = api.post("/users/me/signing-secret").json
        assert encryption.change(db, Seal(BOTH)) == {"resealed_secrets": 2, "resealed_keys": 1}
        assert both.get("/users/me/signing-secret").json == rotated
        assert sent_key(db, receiver, NEW) == tenant.key
        user, key = tenant.caller.user_id, SECRET_KEY.encode()
        sealed = db.all("select sealed from signing_secrets where user_id = %(user)s", user=user)
        assert len(sealed) == 2 and all(Seal(NEW).open(row["sealed"]) for row in sealed)
        assert not any(key in row["sealed"] or Seal(SECRET_KEY).open(row["sealed"]) for row in sealed)

    def test_makes_processes_with_both_seal_with_the_new_key(
        self, both: Client, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        encryption.change(db, Seal(BOTH))
        run_job(both, receiver, "heartbeat")
        assert sent_key(db, receiver, NEW) == tenant.key
        secret = secret_of(both)
        assert encryption.change(db, Seal(NEW)) is None
        assert secret_of(both) == secret

    def test_once_more_seals_what_a_process_had_still_sealed_with_the_old_key(
        self, both: Client, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        assert both.get("/jobs").status_code == 200  # the sealed key is remembered from now on
        encryption.change(db, Seal(BOTH))
        run_job(both, receiver, "heartbeat")
        assert encryption.change(db, Seal(BOTH)) == {"resealed_secrets": 0, "resealed_keys": 1}
        assert encryption.change(db, Seal(BOTH)) is None
        assert sent_key(db, receiver, NEW) == tenant.key

    def test_stops_a_process_that_has_the_old_key_alone_before_it_seals_anything(
        self, app: Flask, both_app: Flask, db: Database, tenant: Tenant
    ) -> None:
        encryption.change(db, Seal(BOTH))
        old = Client(app.test_client(), tenant.key)
        assert "KELPIE_SECRET_KEY" in refused(old.get("/users/me"), 503)["message"]

    def test_leaves_alone_what_none_of_the_keys_opens(self, api: Client, db: Database, receiver: Receiver) -> None:
        run_job(api, receiver, "heartbeat")
        db.execute(
            "update webhooks set sealed_key = %(sealed)s", sealed=Seal("x" * 32).seal("a key that is lost already")
        )
        before = outbox(db)[0]["sealed_key"]
        assert encryption.change(db, Seal(BOTH)) == {"resealed_secrets": 0, "resealed_keys": 0}
        assert outbox(db)[0]["sealed_key"] == before

    def test_drops_what_none_of_the_keys_opens_when_told_to(
        self, api: Client, db: Database, receiver: Receiver, tenant: Tenant
    ) -> None:
        for _ in range(2):
            run_job(api, receiver, "heartbeat")
        lost = outbox(db)[0]["id"]
        db.execute(
            "update webhooks set sealed_key = %(sealed)s where id = %(lost)s",
            sealed=Seal("x" * 32).seal("k"),
            lost=lost,
        )
        changed = encryption.change(db, Seal(BOTH), drop=True)
        assert changed == {"secrets": 0, "keys": 1, "resealed_secrets": 0, "resealed_keys": 1}
        assert [row["id"] for row in outbox(db) if row["sealed_key"] is None] == [lost]

    def test_without_the_databases_key_is_refused_and_changes_nothing(
        self, api: Client, db: Database, receiver: Receiver, tenant: Tenant
    ) -> None:
        run_job(api, receiver, "heartbeat")
        secret = secret_of(api)
        with pytest.raises(
            SecretsWouldBeLost, match="cannot open 1 of the signing secrets and 1 of the keys of webhooks"
        ):
            encryption.change(db, Seal(NEW))
        assert secret_of(api) == secret
        assert sent_key(db, receiver, SECRET_KEY) == tenant.key

    def test_of_many_webhooks_leaves_none_out(
        self, api: Client, db: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encryption, "BATCH", 2)
        for _ in range(5):
            run_job(api, receiver, "heartbeat")
        assert encryption.change(db, Seal(BOTH)) == {"resealed_secrets": 0, "resealed_keys": 5}
        assert all(Seal(NEW).open(row["sealed_key"]) for row in outbox(db))


def test_a_process_starts_while_either_of_its_keys_is_the_databases(
    app: Flask, config: Config, db: Database
) -> None:
    for secret_key in (BOTH, SECRET_KEY, f"{SECRET_KEY},{NEW}"):
        create_app(replace(config, secret_key=secret_key)).extensions["kelpie"].end()
    encryption.change(db, Seal(BOTH))
    for secret_key in (BOTH, NEW, f"{SECRET_KEY},{NEW}"):
        create_app(replace(config, secret_key=secret_key)).extensions["kelpie"].end()
    for secret_key in (SECRET_KEY, f"{SECRET_KEY},{'x' * 32}"):
        with pytest.raises(ConfigError, match="KELPIE_SECRET_KEY is not the one"):
            create_app(replace(config, secret_key=secret_key))


A, B = "a" * 32, "b" * 40


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (A, [A]),
        (f"{A},{B}", [A, B, f"{A},{B}"]),
        (f"{A},{B},c", [A, f"{B},c", f"{A},{B},c"]),
        (f"short,{B}", [f"short,{B}"]),
        (f"{A},short", [f"{A},short"]),
        (f",{A}", [f",{A}"]),
        (f"{A}, {B}\n", [A, B, f"{A}, {B}\n"]),
    ],
)
def test_which_keys_a_text_with_a_comma_may_mean(written: str, meant: list[str]) -> None:
    assert keys_in(written) == meant


def test_a_database_that_was_used_with_a_comma_in_its_key_goes_on_with_it(
    db: Database, config: Config, tenant: Tenant, receiver: Receiver
) -> None:
    whole = Key(BOTH)
    db.execute("insert into secret_key (fingerprint) values (%(whole)s)", whole=whole.fingerprint)
    db.execute(
        "insert into signing_secrets (user_id, sealed) values (%(user)s, %(sealed)s)",
        user=tenant.caller.user_id,
        sealed=whole.fernet.encrypt(b"whsec_c2VjcmV0"),
    )
    app = create_app(replace(config, secret_key=BOTH))
    client = Client(app.test_client(), tenant.key)
    assert secret_of(client) == "whsec_c2VjcmV0"
    run_job(client, receiver, "heartbeat")
    assert whole.fernet.decrypt(outbox(db)[0]["sealed_key"]).decode() == tenant.key
    assert sent_key(db, receiver, BOTH) == tenant.key
    app.extensions["kelpie"].end()
