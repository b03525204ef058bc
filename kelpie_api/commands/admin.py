"""Users and their keys, straight on the database of DATABASE_URL."""

import json
import os
from typing import Any
from uuid import UUID

import click

from kelpie_api import encryption
from kelpie_api.auth import users as auth_users
from kelpie_api.auth.authenticator import REMEMBERED_FOR
from kelpie_api.auth.caller import Role
from kelpie_api.commands.database import database
from kelpie_api.config import Config
from kelpie_api.encryption import Seal
from kelpie_api.errors import ConfigError
from kelpie_api.sealed import environments
from kelpie_api.webhooks import signing

BEFORE_A_CHANGE = "All programs must have this KELPIE_SECRET_KEY by now; if they do, say --yes."
BEFORE_SEALING = (
    "All programs of the coordinator must be of this release by now, and there is no way back to the one before;"
    " if so, say --yes."
)
OLDER_PROCESSES = (
    "Processes of the release before are connected, from {where}; end them first. A pooler may show connections of"
    " processes that are gone: then say --anyway."
)
OF_JOBS = {
    "resealed_job_secrets": "secrets of jobs",
    "resealed_environments": "environments of jobs",
}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def config() -> Config:
    try:
        return Config.from_env(os.environ)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def say(found: Any, line: str, as_json: bool) -> None:
    click.echo(json.dumps(found, default=str) if as_json else line)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("create-user")
@click.argument("name")
@as_json
def create_user(name: str, as_json: bool) -> None:
    """Make a user."""
    with database() as db:
        user = auth_users.create_user(db, name)
    say(user, f"Made user {user['username']} ({user['id']}).", as_json)


@main.command("create-key")
@click.argument("user")
@click.option("--org", required=True, help="The organization that the key stands for.")
@click.option("--project", required=True, help="The project whose jobs it submits, reads and runs.")
@click.option(
    "--role",
    type=click.Choice([*Role, "user"]),
    default=Role.OPERATOR,
    show_default=True,
    help="What it may do; viewer: read; worker: claim, report, and read what was handed out, for nodes; user: the"
    " older name of operator.",
)
@as_json
def create_key(user: str, org: str, project: str, role: str, as_json: bool) -> None:
    """Make an API key of USER (name or id); it is printed this once."""
    with database() as db:
        key = auth_users.create_key(db, user, org, project, Role(role))
    say({"token": key}, key, as_json)
    if not as_json:
        click.echo("Keep it: only its digest is stored, and it cannot be shown again.", err=True)


@main.command("list-users")
@as_json
def list_users(as_json: bool) -> None:
    """List all users."""
    with database() as db:
        users = auth_users.list_users(db)
    say(users, table(users, ["id", "username", "is_admin", "created"]), as_json)


@main.command("list-keys")
@click.argument("user", required=False)
@as_json
def list_keys(user: str | None, as_json: bool) -> None:
    """List the keys of USER (name or id), or of all users: id, owner, name and last use, never the key."""
    with database() as db:
        keys = auth_users.list_keys(db, user)
    say(
        keys,
        table(
            keys, ["id", "username", "org_name", "project_name", "name", "prefix", "role", "created", "last_used"]
        ),
        as_json,
    )


@main.command("revoke-key")
@click.argument("key_id", metavar="ID", type=click.UUID)
@as_json
def revoke_key(key_id: UUID, as_json: bool) -> None:
    """Revoke a key; ID is the one that list-keys shows."""
    with database() as db:
        revoked = auth_users.revoke_key(db, key_id)
    owner = f"{revoked['username']} in project {revoked['project_name']}"
    known = f"Web processes that know it refuse it within {REMEMBERED_FOR:.0f} seconds."
    say(revoked, f"Revoked key {key_id} of {owner}. {known}", as_json)


@main.command("delete-user")
@click.argument("user")
@as_json
def delete_user(user: str, as_json: bool) -> None:
    """Remove USER (name or id) with its keys, scaling rules and jobs, the running ones too; buckets stay."""
    with database() as db:
        removed = auth_users.delete_user(db, auth_users.find_user(db, user)["id"])
    known = f"Web processes that know its keys refuse them within {REMEMBERED_FOR:.0f} seconds."
    say(removed, f"Removed user {removed['username']} ({removed['id']}). {known}", as_json)


@main.command("rotate-signing-secret")
@click.argument("user")
@as_json
def rotate_signing_secret(user: str, as_json: bool) -> None:
    """Give USER (name or id) a new secret that signs webhooks; the one before is valid for another day."""
    with database() as db:
        seal = Seal(config().secret_key)
        rotated = signing.rotate_signing_secret(db, seal, auth_users.find_user(db, user)["id"])
    say(rotated, rotated["secret"], as_json)


@main.command("change-secret-key")
@click.option("--yes", is_flag=True, help="Do it, do not ask; nothing is lost by it.")
@click.option("--drop-unreadable", is_flag=True, help="Do it, and remove what this key cannot open.")
@as_json
def change_secret_key(yes: bool, drop_unreadable: bool, as_json: bool) -> None:
    """Adopt the KELPIE_SECRET_KEY of the environment.

    With NEW,OLD nothing is lost: NEW is adopted, and what was sealed with OLD is sealed with it. All programs must
    have both by then; run it once more half a minute later, for what they sealed meanwhile.

    With NEW alone it refuses while there is something that was sealed with the key before. With --drop-unreadable
    that is removed, but for what jobs are given, which waits for its key: stop the API and the sender of webhooks
    first, and start them with NEW.
    """
    seal = Seal(config().secret_key)
    with database() as db:
        if not (yes or drop_unreadable):
            encryption.require_readable(db, seal)
            raise click.ClickException(BEFORE_A_CHANGE)
        changed = encryption.change(db, seal, drop_unreadable)
        if changed is not None:
            say({"changed": True} | changed, what_changed(changed), as_json)
        if not drop_unreadable:
            encryption.require_readable(db, seal)
    if changed is None:
        say({"changed": False}, "This is the key of the database already; nothing was changed.", as_json)


@main.command("seal")
@click.option("--yes", is_flag=True, help="All processes of the coordinator are of this release.")
@click.option(
    "--anyway", is_flag=True, help="Also where the database still shows connections of the release before."
)
@as_json
def seal(yes: bool, anyway: bool, as_json: bool) -> None:
    """Have environments of jobs sealed in the database, those of finished jobs too.

    The release before cannot open them, so all its processes must have ended, and from then on its claims are
    refused: there is no way back to it. Run it again if it is cut short.
    """
    keys = Seal(config().secret_key)
    with database() as db:
        if not environments.are_sealed(db):
            older = environments.older_processes(db)
            if older and not anyway:
                raise click.ClickException(OLDER_PROCESSES.format(where=", ".join(older)))
            if not yes:
                raise click.ClickException(BEFORE_SEALING)
        number = environments.seal_all(db, keys)
    say({"sealed": number}, f"Environments are sealed; those of {number} stored jobs were sealed now.", as_json)


def what_changed(changed: dict[str, int]) -> str:
    done = [
        f"{did} {changed.get(secrets, 0)} signing secrets and the keys of {changed.get(keys, 0)} webhooks"
        for did, secrets, keys in (
            ("sealed anew", "resealed_secrets", "resealed_keys"),
            ("removed", "secrets", "keys"),
        )
        if secrets in changed
    ]
    done += [f"sealed anew {changed[name]} {what}" for name, what in OF_JOBS.items() if name in changed]
    return f"The key is adopted; {', '.join(done)}."
