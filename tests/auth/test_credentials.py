"""The three kinds of caller together: which credential counts, and that none of them is written down anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import salad_keys
from kelpie_api.db import Database
from local_stack.processes import wait_for
from tests.auth.test_keys_and_users import everything_stored
from tests.doubles.double import page
from tests.doubles.salad import SaladDouble, trouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import Client, Tenant, refused, with_salad_key, with_token

SALAD_KEY, WRONG_KEY, OWN_KEY = "canary-salad-key", "canary-wrong-key", "canary-own-key"


@pytest.fixture
def settings(salad: SaladDouble, tokens: TokenDouble) -> dict[str, Any]:
    salad.allow(SALAD_KEY, "of-the-salad-key", "default")
    salad.allow(OWN_KEY, "of-the-token", "default")
    tokens.organization = "of-the-token"
    return {"salad_api_url": salad.api_url, "salad_jwks_url": tokens.jwks_url, "salad_api_key": OWN_KEY}


def all_at_once(app: Flask, tenant: Tenant, tokens: TokenDouble, **changes: str | None) -> Client:
    """A client with three credentials, each of another user; a change to None leaves a header out."""
    headers: dict[str, str | None] = {
        "X-Kelpie-Key": tenant.key,
        "Salad-Api-Key": SALAD_KEY,
        "Salad-Organization": "of-the-salad-key",
        "Salad-Project": "default",
        "Authorization": f"Bearer {tokens.token()}",
    }
    sent = headers | {name.replace("_", "-"): value for name, value in changes.items()}
    return Client(app.test_client(), None, {name: value for name, value in sent.items() if value is not None})


def user(client: Client) -> str:
    answer = client.get("/users/me")
    assert answer.status_code == 200, answer.text
    return str((answer.json or {})["username"])


class TestOfSeveralCredentials:
    def test_kelpies_key_comes_first_then_salads_then_the_token(
        self, app: Flask, tenant: Tenant, tokens: TokenDouble
    ) -> None:
        assert user(all_at_once(app, tenant, tokens)) == tenant.caller.username
        assert user(all_at_once(app, tenant, tokens, X_Kelpie_Key=None)) == "of-the-salad-key"
        assert user(all_at_once(app, tenant, tokens, X_Kelpie_Key="")) == "of-the-salad-key"
        assert user(all_at_once(app, tenant, tokens, X_Kelpie_Key=None, Salad_Api_Key=None)) == "of-the-token"

    def test_the_first_counts_also_if_it_is_wrong(self, app: Flask, tenant: Tenant, tokens: TokenDouble) -> None:
        for wrong in ({"X_Kelpie_Key": "wrong"}, {"X_Kelpie_Key": "g1|acme"}):
            refused(all_at_once(app, tenant, tokens, **wrong).get("/jobs"), 403)
        refused(all_at_once(app, tenant, tokens, X_Kelpie_Key=None, Salad_Api_Key=WRONG_KEY).get("/jobs"), 403)

    def test_the_first_counts_also_if_a_header_beside_it_is_missing(
        self, app: Flask, tenant: Tenant, tokens: TokenDouble
    ) -> None:
        bare = all_at_once(app, tenant, tokens, X_Kelpie_Key=None, Salad_Organization=None)
        refused(bare.get("/jobs"), 400)

    def test_those_that_do_not_count_are_not_looked_at(
        self, app: Flask, tenant: Tenant, tokens: TokenDouble, salad: SaladDouble
    ) -> None:
        assert user(all_at_once(app, tenant, tokens)) == tenant.caller.username
        assert not salad.asked and not tokens.asked


def test_a_flood_of_made_up_keys_while_salad_hangs_delays_no_other_caller(
    app: Flask, db: Database, salad: SaladDouble, tokens: TokenDouble, tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    proven = with_salad_key(app, SALAD_KEY, "of-the-salad-key")
    assert user(proven) == "of-the-salad-key"
    assert user(with_token(app, tokens.token())) == "of-the-token"
    authenticator = app.extensions["kelpie"].authenticator
    monkeypatch.setattr(salad_keys, "KEY_PATIENCE", 0.0)
    salad.hold()
    asked = len(salad.asked)
    for number in range(50):
        refused(with_salad_key(app, f"made-up-{number}", "of-the-salad-key").get("/jobs"), 503)
    wait_for(lambda: len(salad.asked) - asked == 8, "Salad to be asked", pause=0.01)
    authenticator.salad_keys.remembered.clear()
    db.execute("update salad_proofs set proven = proven - interval '1 hour'")
    assert user(proven) == "of-the-salad-key"
    wait_for(lambda: len(salad.asked) - asked == 9, "Salad to be asked about the proven key", pause=0.01)
    salad.add_group("of-the-token", "default", tokens.workload)
    user(with_token(app, tokens.token()))
    wait_for(lambda: len(salad.asked) - asked == 10, "Salad to be asked about the machine's group", pause=0.01)
    tokens.rotate()
    assert user(with_token(app, tokens.token())) == "of-the-token"
    assert user(Client(app.test_client(), tenant.key)) == tenant.caller.username
    salad.let_go()


def test_no_credential_is_in_a_table_or_in_the_log(
    app: Flask, db: Database, salad: SaladDouble, tokens: TokenDouble, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Neither of those that are believed nor of those that are refused, whatever Salad does meanwhile."""
    salad.add_group("of-the-token", "default", tokens.workload)
    good, forged = tokens.token(), tokens.token(aud="another")
    clients = [
        with_salad_key(app, SALAD_KEY, "of-the-salad-key"),
        with_salad_key(app, WRONG_KEY, "of-the-salad-key"),
        with_token(app, good),
        with_token(app, forged),
    ]
    authenticator = app.extensions["kelpie"].authenticator
    for instead in (None, trouble(500, "Error"), page(200), page(302, Location="http://127.0.0.1:9/")):
        salad.instead = tokens.instead = instead
        for client in clients:
            client.get("/jobs")
            client.post("/jobs", {"command": "x", "container_group_id": None, "webhook": "http://receiver/"})
            client.get(f"/work?machine_id={tokens.machine}&container_group_id={tokens.workload}")
        authenticator.salad_keys.remembered.clear()
        db.execute("update salad_proofs set proven = proven - interval '1 hour'")
        db.execute("update jwks set fetched = fetched - interval '1 day'")
        authenticator.tokens.keys.fetched -= 24 * 3600
        authenticator.tokens.keys.ask_again = 0.0
    assert db.all("select from salad_proofs") and db.all("select from jwks")
    assert any(record.message == "salad_silent" for record in caplog.records)
    assert any(record.message == "jwks_silent" for record in caplog.records)
    written = everything_stored(db) + capsys.readouterr().err + "".join(str(vars(r)) for r in caplog.records)
    for secret in (SALAD_KEY, WRONG_KEY, OWN_KEY, *good.split("."), *forged.split(".")):
        if len(secret) > 10 and secret != good.split(".")[0]:
            assert secret not in written
            assert secret.encode().hex() not in written


def test_nothing_of_a_secret_shows_in_what_is_printed(app: Flask) -> None:
    parts = app.extensions["kelpie"]
    assert OWN_KEY not in repr(parts.config)
