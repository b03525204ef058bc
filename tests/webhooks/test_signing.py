"""Signed webhooks: what a receiver can verify with an independent library, and how secrets are replaced."""

from __future__ import annotations

import base64
import json
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from kelpie_api import encryption
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks.sender import Sender
from kelpie_api.webhooks.signing import new_secret, rotate_signing_secret, sign, signing_secret, valid_secrets
from tests.conftest import SECRET_KEY
from tests.doubles.receiver import Receiver, outbox, run_job, send_round
from tests.helpers import Client, Tenant, at_once, while_open

SEAL = Seal(SECRET_KEY)
OTHER = Seal("another secret of more than thirty-two characters")
PATH = "/users/me/signing-secret"


def verify(secret: str, got: dict[str, Any]) -> Any:
    return Webhook(secret).verify(got["bytes"], got["headers"])


def test_the_example_of_the_standard_comes_out() -> None:
    """From the specification of Standard Webhooks."""
    body = b'{"test": 2432232314}'
    signature = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_new_secret_is_32_random_bytes() -> None:
    secret = new_secret()
    assert secret.startswith("whsec_") and len(base64.b64decode(secret[6:])) == 32
    assert secret != new_secret()


class TestReceiving:
    def test_a_receiver_verifies_it_with_the_secret_of_the_user(
        self, api: Client, receiver: Receiver, sender: Sender, db: Database
    ) -> None:
        job_id = run_job(api, receiver, "heartbeat")
        send_round(sender)
        secret = api.get(PATH).json["secret"]  # type: ignore[index]
        [got] = receiver.got
        assert verify(secret, got)["job_id"] == job_id
        assert got["headers"]["user-agent"].startswith("kelpie/")
        with pytest.raises(WebhookVerificationError):
            verify(new_secret(), got)
        with pytest.raises(WebhookVerificationError):
            verify(secret, got | {"bytes": got["bytes"] + b" "})

    def test_a_retry_has_the_same_id_and_the_time_of_the_try(
        self,
        api: Client,
        receiver: Receiver,
        sender: Sender,
        db: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        receiver.answers = [500]
        run_job(api, receiver, "heartbeat")
        for now in (1_700_000_000.9, 1_700_003_600.0):
            monkeypatch.setattr("kelpie_api.webhooks.sender.time.time", lambda now=now: now)
            db.execute("update webhooks set next_try = now()")
            send_round(sender)
        first, second = (got["headers"] for got in receiver.got)
        assert first["webhook-id"] == second["webhook-id"]
        assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700003600")
        assert first["webhook-signature"] != second["webhook-signature"]

    def test_for_a_day_after_a_rotation_the_old_and_the_new_secret_verify(
        self, api: Client, receiver: Receiver, sender: Sender, db: Database
    ) -> None:
        before = api.get(PATH).json["secret"]  # type: ignore[index]
        after = api.post(PATH).json["secret"]  # type: ignore[index]
        run_job(api, receiver, "completed")
        send_round(sender)
        assert len(receiver.got[0]["headers"]["webhook-signature"].split(" ")) == 2
        assert verify(before, receiver.got[0]) == verify(after, receiver.got[0])
        db.execute("update signing_secrets set valid_until = now() where valid_until is not null")
        send_round(sender)
        assert verify(after, receiver.got[1])
        with pytest.raises(WebhookVerificationError):
            verify(before, receiver.got[1])

    def test_webhooks_of_two_users_have_two_secrets(
        self, api: Client, stranger: Client, receiver: Receiver, sender: Sender
    ) -> None:
        secrets = [client.get(PATH).json["secret"] for client in (api, stranger)]  # type: ignore[index]
        for client in (api, stranger):
            run_job(client, receiver, "heartbeat")
            send_round(sender)
        for secret, got in zip(secrets, receiver.got, strict=True):
            assert verify(secret, got)
        with pytest.raises(WebhookVerificationError):
            verify(secrets[0], receiver.got[1])


class TestSecrets:
    def test_it_is_made_when_first_read_and_stays(self, api: Client) -> None:
        answers = [api.get(PATH) for _ in range(2)]
        assert answers[0].json == answers[1].json
        assert (answers[0].json or {}).keys() == {"secret", "created", "previous"}
        assert (answers[0].json or {})["previous"] is None
        assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}

    def test_a_rotation_keeps_the_one_before_for_a_day(self, api: Client, db: Database) -> None:
        first = api.get(PATH).json or {}
        answer = api.post(PATH)
        second = answer.json or {}
        assert answer.headers["Cache-Control"] == "no-store"
        assert second["secret"] != first["secret"] == second["previous"]["secret"]
        assert second["previous"].keys() == {"secret", "valid_until"}
        assert api.get(PATH).json == second
        left = db.one_or_none(
            "select valid_until - now() <= interval '24 hours' as day from signing_secrets"
            " where valid_until > now() + interval '23 hours 59 minutes'"
        )
        assert left == {"day": True}

    def test_there_are_never_more_than_two(self, api: Client, db: Database) -> None:
        shown = [api.post(PATH).json or {} for _ in range(4)]
        assert shown[0]["previous"] is None
        for before, after in pairwise(shown):
            assert after["previous"]["secret"] == before["secret"]
        assert len(db.all("select from signing_secrets")) == 2

    def test_twenty_processes_that_need_the_first_secret_at_once_get_the_same(
        self, db: Database, tenant: Tenant
    ) -> None:
        made = at_once([lambda: signing_secret(db, SEAL, tenant.caller.user_id)["secret"]] * 20)
        assert len(set(made)) == 1

    def test_rotations_at_once_leave_two_and_every_answer_was_current(self, db: Database, tenant: Tenant) -> None:
        made = at_once([lambda: rotate_signing_secret(db, SEAL, tenant.caller.user_id)["secret"]] * 10)
        assert len(set(made)) == 10
        left = {row["secret"] for row in valid_secrets(db, SEAL, tenant.caller.user_id)}
        assert len(left) == 2 and left < set(made)

    def test_a_rotation_waits_for_another(self, db: Database, tenant: Tenant) -> None:
        first = signing_secret(db, SEAL, tenant.caller.user_id)["secret"]
        user = tenant.caller.user_id
        _, shown = while_open(
            db,
            lambda tx: tx.one_or_none("select from users where id = %(user)s for no key update", user=user),
            lambda: rotate_signing_secret(db, SEAL, user),
        )
        assert shown["previous"]["secret"] == first

    def test_the_database_does_not_hold_it_in_plain_text(self, api: Client, db: Database) -> None:
        secret = (api.get(PATH).json or {})["secret"]
        dump = json.dumps(db.all("select id, encode(sealed, 'escape') as sealed from signing_secrets"))
        assert secret not in dump and secret[6:] not in dump

    def test_one_that_the_databases_own_key_does_not_open_is_replaced_when_it_is_needed(
        self, db: Database, tenant: Tenant, caplog: pytest.LogCaptureFixture
    ) -> None:
        user = tenant.caller.user_id
        rotate_signing_secret(db, SEAL, user)
        rotate_signing_secret(db, SEAL, user)
        db.execute("delete from secret_key")
        fresh = signing_secret(db, OTHER, user)
        assert fresh["secret"] and fresh["previous"] is None
        assert signing_secret(db, OTHER, user) == fresh
        assert "signing_secret_unreadable" in caplog.messages

    def test_a_rotation_does_not_keep_one_that_cannot_be_read(self, db: Database, tenant: Tenant) -> None:
        rotate_signing_secret(db, SEAL, tenant.caller.user_id)
        db.execute("delete from secret_key")
        assert rotate_signing_secret(db, OTHER, tenant.caller.user_id)["previous"] is None

    def test_after_a_change_of_the_key_webhooks_go_on_with_a_new_secret_and_without_the_old_key(
        self, api: Client, db: Database, tenant: Tenant, receiver: Receiver
    ) -> None:
        old = (api.get(PATH).json or {})["secret"]
        run_job(api, receiver, "heartbeat")
        assert encryption.change(db, OTHER, drop=True) == {"secrets": 1, "keys": 1}
        send_round(Sender(db, OTHER, PublicHttp(True)))
        assert outbox(db)[0]["delivered"]
        assert receiver.got[0]["headers"]["x-kelpie-key"] == ""
        assert verify(signing_secret(db, OTHER, tenant.caller.user_id)["secret"], receiver.got[0])
        with pytest.raises(WebhookVerificationError):
            verify(old, receiver.got[0])


@given(body=st.binary(max_size=200), key=st.binary(min_size=24, max_size=64))
def test_any_body_and_any_secret_of_the_standards_lengths_verify(body: bytes, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    now = int(time.time())
    text = body.hex().encode()
    headers = {"webhook-id": "1", "webhook-timestamp": str(now), "webhook-signature": sign(secret, "1", now, text)}
    Webhook(secret).verify(text, headers, json_parse=False)


def test_the_code_that_receivers_are_shown_verifies(api: Client, receiver: Receiver, sender: Sender) -> None:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    [shown] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def is_genuine" in block]
    names: dict[str, Any] = {}
    exec(shown, names)
    before = (api.get(PATH).json or {})["secret"]
    after = (api.post(PATH).json or {})["secret"]
    run_job(api, receiver, "heartbeat")
    send_round(sender)
    [got] = receiver.got
    for secret in (before, after):
        assert names["is_genuine"](secret, got["bytes"], got["headers"])
        assert not names["is_genuine"](secret, got["bytes"] + b" ", got["headers"])
    assert not names["is_genuine"](new_secret(), got["bytes"], got["headers"])
