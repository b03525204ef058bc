"""scripts/admin: users and keys from the command line."""

from __future__ import annotations

import json
import uuid

import pytest
from flask import Flask
from psycopg.conninfo import make_conninfo

from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from tests.conftest import SECRET_KEY
from tests.helpers import Client, Tenant
from tests.scripts.conftest import Run, refused


def test_a_user_gets_a_key_and_the_key_opens_the_api(run_script: Run, app: Flask, db: Database) -> None:
    made = json.loads(run_script("admin", "create-user", "acme corp", "--json").stdout)
    assert made["username"] == "acme corp"
    key = run_script("admin", "create-key", "acme corp", "--org", "acme", "--project", "blue").stdout.strip()
    me = Client(app.test_client(), key).get("/users/me").json
    assert me and me["id"] == made["id"]


def test_a_user_can_be_named_by_id(run: Run, app: Flask, tenant: Tenant) -> None:
    user_id = str(tenant.caller.user_id)
    made = run("admin", "create-key", user_id.upper(), "--org", "acme", "--project", "blue", "--json")
    key = json.loads(made.stdout)["token"]
    assert (Client(app.test_client(), key).get("/users/me").json or {})["id"] == user_id


def test_a_key_is_listed_by_whose_it_is_and_never_by_what_it_is(run: Run, tenant: Tenant, db: Database) -> None:
    for arguments in (["list-keys"], ["list-keys", "acme"], ["list-keys", "--json"]):
        listed = run("admin", *arguments)
        assert listed.returncode == 0
        assert "default" in listed.stdout
        assert tenant.key not in listed.stdout
    (key,) = json.loads(run("admin", "list-keys", "acme", "--json").stdout)
    assert key.keys() == {"id", "username", "org_name", "project_name", "role", "created"} | {
        "name",
        "prefix",
        "created_by",
        "last_used",
    }
    assert (key["role"], key["prefix"]) == ("operator", tenant.key[:13])
    assert json.loads(run("admin", "list-keys", "admin", "--json").stdout) == []


def test_users_are_listed(run: Run, tenant: Tenant) -> None:
    users = json.loads(run("admin", "list-users", "--json").stdout)
    assert {user["username"]: user["is_admin"] for user in users} == {"admin": True, "acme": False}
    assert "acme" in run("admin", "list-users").stdout


def test_a_revoked_key_is_refused_and_the_others_are_not(run: Run, app: Flask, tenant: Tenant) -> None:
    other = run("admin", "create-key", "acme", "--org", "acme", "--project", "other").stdout.strip()
    keys = json.loads(run("admin", "list-keys", "acme", "--json").stdout)
    first = next(key for key in keys if key["project_name"] == "default")
    revoked = run("admin", "revoke-key", first["id"])
    assert revoked.returncode == 0
    assert "30 seconds" in revoked.stdout
    assert Client(app.test_client(), tenant.key).get("/users/me").status_code == 403
    assert Client(app.test_client(), other).get("/users/me").status_code == 200


def test_a_user_is_removed_with_its_keys_and_jobs(run: Run, app: Flask, tenant: Tenant, db: Database) -> None:
    Client(app.test_client(), tenant.key).submit()
    removed = run("admin", "delete-user", "acme")
    assert removed.returncode == 0
    assert "acme" in removed.stdout and "30 seconds" in removed.stdout
    assert db.all("select from jobs") == db.all("select from queue") == db.all("select from api_keys") == []
    assert "There is no user acme" in refused(run("admin", "delete-user", "acme"))
    assert "cannot be removed" in refused(run("admin", "delete-user", "admin"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["create-user", "acme"], "There is a user acme already"),
        (["create-user", ""], "1 to 255 characters"),
        (["create-user", "x" * 256], "1 to 255 characters"),
        (["create-key", "nobody", "--org", "o", "--project", "p"], "There is no user nobody"),
        (["create-key", str(uuid.uuid4()), "--org", "o", "--project", "p"], "There is no user"),
        (["create-key", "acme", "--org", "", "--project", "p"], "The organization must have"),
        (["create-key", "acme", "--org", "o", "--project", "x" * 256], "The project must have"),
        (["create-key", "acme", "--org", "o"], "--project"),
        (["list-keys", "nobody"], "There is no user nobody"),
        (["revoke-key", str(uuid.uuid4())], "There is no key"),
        (["revoke-key", "x"], "not a valid UUID"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    run: Run, tenant: Tenant, arguments: list[str], sentence: str
) -> None:
    assert sentence in refused(run("admin", *arguments))


def test_a_missing_setting_an_absent_database_and_an_old_schema_are_said(
    run_script: Run, empty_database: str
) -> None:
    assert "DATABASE_URL is not set" in refused(run_script("admin", "list-users", env={"DATABASE_URL": ""}))
    away = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    assert "does not answer" in refused(run_script("admin", "list-users", env=away))
    assert "scripts/migrate" in refused(run_script("admin", "list-users", env={"DATABASE_URL": empty_database}))


def test_a_rotated_signing_secret_is_the_one_that_the_user_sees(run: Run, api: Client) -> None:
    before = (api.get("/users/me/signing-secret").json or {})["secret"]
    printed = run("admin", "rotate-signing-secret", "acme").stdout.strip()
    shown = api.get("/users/me/signing-secret").json or {}
    assert shown["secret"] == printed != before
    assert shown["previous"]["secret"] == before
    rotated = json.loads(run("admin", "rotate-signing-secret", "acme", "--json").stdout)
    assert (api.get("/users/me/signing-secret").json or {})["secret"] == rotated["secret"] != printed


NEW_KEY = {"KELPIE_SECRET_KEY": "a new secret of more than thirty-two characters"}


def test_with_another_key_no_signing_secret_is_rotated(run: Run, api: Client) -> None:
    before = api.get("/users/me/signing-secret").json
    said = refused(run("admin", "rotate-signing-secret", "acme", env=NEW_KEY))
    assert "KELPIE_SECRET_KEY is not the one" in said and "does not answer" not in said
    assert api.get("/users/me/signing-secret").json == before


def test_a_new_secret_key_alone_is_refused_while_it_cannot_open_something_until_that_is_given_up(
    run: Run, api: Client, tenant: Tenant
) -> None:
    before = (api.get("/users/me/signing-secret").json or {})["secret"]
    for flags in ([], ["--yes"]):
        sentence = refused(run("admin", "change-secret-key", *flags, env=NEW_KEY))
        assert "cannot open 1 of the signing secrets and 0 of the keys of webhooks" in sentence
        assert "NEW,OLD" in sentence and "--drop-unreadable" in sentence
    assert (api.get("/users/me/signing-secret").json or {})["secret"] == before
    adopted = run("admin", "change-secret-key", "--drop-unreadable", "--json", env=NEW_KEY)
    assert json.loads(adopted.stdout) == {"changed": True, "secrets": 1, "keys": 0}
    again = run("admin", "change-secret-key", "--yes", env=NEW_KEY)
    assert again.returncode == 0 and "nothing was changed" in again.stdout
    assert run("admin", "rotate-signing-secret", "acme", env=NEW_KEY).stdout.startswith("whsec_")
    assert "KELPIE_SECRET_KEY is not the one" in refused(run("admin", "rotate-signing-secret", "acme"))


def test_what_a_former_key_sealed_is_counted_where_that_key_is_not_named_any_more(
    run: Run, api: Client, db: Database
) -> None:
    assert api.get("/users/me/signing-secret").status_code == 200
    old_alone = {"KELPIE_SECRET_KEY": SECRET_KEY}
    sealed = Seal(NEW_KEY["KELPIE_SECRET_KEY"]).seal("whsec_c2VjcmV0")
    db.execute("update signing_secrets set sealed = %(sealed)s", sealed=sealed)
    sentence = refused(run("admin", "change-secret-key", "--yes", env=old_alone))
    assert "cannot open 1 of the signing secrets" in sentence
    dropped = run("admin", "change-secret-key", "--drop-unreadable", "--json", env=old_alone)
    assert json.loads(dropped.stdout)["secrets"] == 1
    assert "nothing was changed" in run("admin", "change-secret-key", "--yes", env=old_alone).stdout


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (f"{'a' * 31},{SECRET_KEY}", "its first part has fewer than 32 characters"),
        (f"{'n' * 32},{'b' * 31}", "its second part has fewer than 32 characters"),
        (f"{'a' * 20},{'b' * 20}", "its first and its second part has fewer than 32 characters"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False], ids=["with secrets", "without secrets"])
def test_the_part_of_a_secret_key_that_is_too_short_is_named_and_not_shown(
    run: Run, api: Client, written: str, named: str, sealed: bool
) -> None:
    assert api.get("/users/me/signing-secret" if sealed else "/readyz").status_code == 200
    sentence = refused(run("admin", "change-secret-key", "--yes", env={"KELPIE_SECRET_KEY": written}))
    assert named in sentence
    assert "aaa" not in sentence and "bbb" not in sentence


def test_a_new_secret_key_alone_is_adopted_where_nothing_was_sealed(run: Run, api: Client) -> None:
    assert api.get("/readyz").status_code == 200
    assert "--yes" in refused(run("admin", "change-secret-key", env=NEW_KEY))
    adopted = run("admin", "change-secret-key", "--yes", "--json", env=NEW_KEY)
    assert json.loads(adopted.stdout) == {"changed": True, "secrets": 0, "keys": 0}


def test_a_new_secret_key_must_be_in_the_environment(run_script: Run, db: Database) -> None:
    missing = refused(run_script("admin", "change-secret-key", "--yes", env={"KELPIE_SECRET_KEY": ""}))
    assert "KELPIE_SECRET_KEY is not set" in missing


def test_a_new_secret_key_beside_the_old_one_is_adopted_and_nothing_is_lost(run: Run, api: Client) -> None:
    before = (api.get("/users/me/signing-secret").json or {})["secret"]
    new = NEW_KEY["KELPIE_SECRET_KEY"]
    both = {"KELPIE_SECRET_KEY": f"{new},{SECRET_KEY}"}
    assert "--yes" in refused(run("admin", "change-secret-key", env=both))
    adopted = run("admin", "change-secret-key", "--yes", "--json", env=both)
    assert json.loads(adopted.stdout) == {"changed": True, "resealed_secrets": 1, "resealed_keys": 0}
    again = run("admin", "change-secret-key", "--yes", env=both)
    assert again.returncode == 0 and "nothing was changed" in again.stdout
    rotated = json.loads(run("admin", "rotate-signing-secret", "acme", "--json", env=NEW_KEY).stdout)
    assert rotated["previous"]["secret"] == before


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"password": "canary-password"}, "password authentication failed for user"),
        ({"dbname": "no_such_database"}, 'database "no_such_database" does not exist'),
        ({"user": "no_such_user"}, "no_such_user"),
        ({"port": "1", "host": "127.0.0.1"}, "refused"),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid"),
    ],
)
@pytest.mark.parametrize("command", [["admin", "list-users"], ["prune", "--older-than", "30d"], ["migrate"]])
def test_what_the_database_refuses_is_said_with_its_reason_and_without_the_password(
    run: Run, migrated_url: str, command: list[str], wrong: dict[str, str], reason: str
) -> None:
    url = make_conninfo(migrated_url, **wrong)
    sentence = refused(run(*command, env={"DATABASE_URL": url}))
    assert reason in sentence and "canary" not in sentence
    if command != ["migrate"]:
        assert ("refuses the connection" if "FATAL" in sentence else "does not answer") in sentence
    assert len(sentence.strip().splitlines()) == 1
