"""The sender and a database that refuses, is not migrated, or knows another KELPIE_SECRET_KEY."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kelpie_api import encryption
from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.errors import ConfigError, SchemaError, WrongSecretKey
from kelpie_api.net.public_http import PublicHttp
from kelpie_api.webhooks.sender import Sender
from kelpie_api.webhooks.signing import rotate_signing_secret, signing_secret
from local_stack.processes import CHECKOUT, wait_for
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.doubles.receiver import Receiver, outbox, run_job, send_round
from tests.helpers import Client, Tenant, refused

ANOTHER = "another secret of more than thirty-two characters"


@pytest.fixture
def look(sender: Sender) -> Iterator[Callable[[], int]]:
    """One turn of the sender's loop, and all it took is sent."""

    def one_turn() -> int:
        with ThreadPoolExecutor(8) as pool:
            return sender.look(pool)

    yield one_turn


def webhooks(url: str, key: str = SECRET_KEY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CHECKOUT / "scripts" / "webhooks"],
        env=os.environ | {"DATABASE_URL": url, "KELPIE_SECRET_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestADatabaseThatRefuses:
    def test_a_table_that_is_missing_for_a_moment_is_said_once_and_then_all_goes_on(
        self,
        api: Client,
        db: Database,
        receiver: Receiver,
        look: Callable[[], int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        run_job(api, receiver, "heartbeat")
        db.execute("alter table webhooks rename to elsewhere")
        try:
            assert [look(), look(), look()] == [0, 0, 0]
        finally:
            db.execute("alter table elsewhere rename to webhooks")
        assert look() == 1
        assert receiver.statuses == ["running"]
        said = [message for message in caplog.messages if message.startswith("database_")]
        assert said == ["database_refuses", "database_back"]
        assert not any(record.exc_info for record in caplog.records)

    def test_after_a_failover_it_looks_for_the_new_primary(
        self,
        api: Client,
        db: Database,
        migrated_url: str,
        receiver: Receiver,
        sender: Sender,
        look: Callable[[], int],
    ) -> None:
        """The old primary is read-only for connections that remain open to it."""
        run_job(api, receiver, "heartbeat")
        # One connection: a second may still lead to the old one when the first shows that it was delivered.
        frozen = Database(
            make_conninfo(migrated_url, options="-c default_transaction_read_only=on"), connections=1
        )
        frozen.open()
        sender.db = frozen
        assert look() == 0
        frozen.pool.conninfo = migrated_url
        wait_for(lambda: look() == 1, "the sender to reach the new one")
        frozen.close()
        assert outbox(db)[0]["delivered"]

    def test_what_cannot_be_written_down_is_said_and_due_again(
        self,
        api: Client,
        db: Database,
        receiver: Receiver,
        look: Callable[[], int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        run_job(api, receiver, "heartbeat")
        db.execute("alter table deliveries rename to elsewhere")
        try:
            assert look() == 1
        finally:
            db.execute("alter table elsewhere rename to deliveries")
        assert "webhook_not_recorded" in caplog.messages
        db.execute("update webhooks set next_try = now()")
        assert look() == 1
        assert len(receiver.got) == 2 and outbox(db)[0]["delivered"]

    def test_the_loop_outlives_it(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender, caplog: pytest.LogCaptureFixture
    ) -> None:
        db.execute("alter table webhooks rename to elsewhere")
        thread = threading.Thread(target=sender.run)
        thread.start()
        try:
            wait_for(lambda: "database_refuses" in caplog.messages, "the sender to meet it")
            db.execute("alter table elsewhere rename to webhooks")
            run_job(api, receiver, "heartbeat")
            wait_for(lambda: receiver.got, "the webhook")
        finally:
            sender.stopped.set()
            thread.join()
            db.execute("alter table if exists elsewhere rename to webhooks")


class TestAtStart:
    def test_an_old_schema_is_one_sentence(self, empty_database: str) -> None:
        ran = webhooks(empty_database)
        assert ran.returncode == 1
        assert "run scripts/migrate" in ran.stderr and "Traceback" not in ran.stderr

    @pytest.mark.parametrize(
        "url", ["postgres//u:geheim@h/d", "postgresql://u:geheim@h:port/d", "mysql://geheim@h/d"]
    )
    def test_an_address_that_is_none_is_said_without_quoting_it(self, url: str) -> None:
        ran = webhooks(url)
        assert ran.returncode == 1
        assert "DATABASE_URL is no address" in ran.stderr
        assert "geheim" not in ran.stderr and "Traceback" not in ran.stderr

    def test_another_key_is_one_sentence_and_touches_nothing(
        self, api: Client, db: Database, receiver: Receiver, migrated_url: str
    ) -> None:
        run_job(api, receiver, "heartbeat")
        before = outbox(db)[0]["sealed_key"]
        ran = webhooks(migrated_url, ANOTHER)
        assert ran.returncode == 1
        assert "KELPIE_SECRET_KEY is not the one" in ran.stderr and "Traceback" not in ran.stderr
        assert receiver.got == [] and outbox(db)[0]["sealed_key"] == before

    def test_a_sender_looks_at_schema_and_key_when_the_database_first_answers(
        self, db: Database, look: Callable[[], int], sender: Sender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kelpie_api.migrations.problem", lambda connection: "run scripts/migrate")
        with pytest.raises(SchemaError, match="run scripts/migrate"):
            look()


class TestAnotherKey:
    def test_the_api_does_not_start(self, app: object, config: Config) -> None:
        other = Config(config.database_url, ANOTHER, ADMIN_KEY)
        with pytest.raises(ConfigError, match=r"KELPIE_SECRET_KEY is not the one .* change-secret-key"):
            create_app(other)

    def test_an_api_that_serves_already_is_not_ready_after_the_key_was_changed(
        self, api: Client, db: Database
    ) -> None:
        assert api.get("/readyz").status_code == 200
        encryption.change(db, Seal(ANOTHER))
        assert "KELPIE_SECRET_KEY" in refused(api.get("/readyz"), 503)["message"]
        assert "KELPIE_SECRET_KEY" in refused(api.get("/jobs"), 503)["message"]

    def test_no_signing_secret_is_made_or_replaced(self, db: Database, tenant: Tenant) -> None:
        user = tenant.caller.user_id
        secret = signing_secret(db, Seal(SECRET_KEY), user)
        for attempt in (signing_secret, rotate_signing_secret):
            with pytest.raises(WrongSecretKey):
                attempt(db, Seal(ANOTHER), user)
        assert signing_secret(db, Seal(SECRET_KEY), user) == secret

    def test_a_sender_under_whom_the_key_is_changed_sends_nothing_more_and_ends(
        self, api: Client, db: Database, receiver: Receiver, sender: Sender, look: Callable[[], int]
    ) -> None:
        assert look() == 0
        run_job(api, receiver, "heartbeat")
        encryption.change(db, Seal(ANOTHER), drop=True)
        db.execute("update webhooks set sealed_key = %(key)s", key=Seal(ANOTHER).seal("a key"))
        assert look() == 1
        assert receiver.got == [] and outbox(db)[0]["sealed_key"]
        with pytest.raises(WrongSecretKey):
            look()

    def test_it_is_adopted_once(self, api: Client, db: Database, tenant: Tenant, receiver: Receiver) -> None:
        signing_secret(db, Seal(SECRET_KEY), tenant.caller.user_id)
        run_job(api, receiver, "heartbeat")
        assert encryption.change(db, Seal(SECRET_KEY)) is None
        assert outbox(db)[0]["sealed_key"]
        assert encryption.change(db, Seal(ANOTHER), drop=True) == {"secrets": 1, "keys": 1}
        assert encryption.change(db, Seal(ANOTHER)) is None
        send_round(Sender(db, Seal(ANOTHER), PublicHttp(True)))
        assert receiver.got[0]["headers"]["x-kelpie-key"] == ""

    def test_the_database_holds_nothing_of_the_key_itself(self, app: object, db: Database) -> None:
        with psycopg.connect(db.url) as connection:
            [(fingerprint,)] = connection.execute("select fingerprint from secret_key").fetchall()
        assert len(fingerprint) == 32 and fingerprint != Seal(ANOTHER).fingerprint
        assert SECRET_KEY.encode() not in fingerprint
