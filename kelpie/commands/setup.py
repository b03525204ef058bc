"""Where the coordinator is and which key is used: login, whoami, profiles."""

from __future__ import annotations

import sys
from typing import Any

import click

from kelpie.client import Client
from kelpie.commands.common import client
from kelpie.errors import SettingsError
from kelpie.settings import DEFAULT_PROFILE, Settings, config_file, read_profiles, with_scheme, write_profile
from kelpie.show import as_json, fact, plain, say, table


@click.command()
@click.option("--api-url", metavar="URL", help="The coordinator's address.")
@click.option("--with-token", is_flag=True, help="Read the key from standard input.")
@click.option("--profile", metavar="NAME", help="Keep it under this name.")
def login(api_url: str | None, with_token: bool, profile: str | None) -> None:
    """Keep an address and a key for later calls, in a file that only you can read.

    The key is tried before it is kept. It is never an argument: those are seen by all users of the machine.
    """
    said = click.get_current_context().find_root().obj or {}
    name = profile or said.get("profile") or DEFAULT_PROFILE
    url = with_scheme(api_url or said.get("api_url") or asked("Address of the coordinator"))
    key = sys.stdin.readline().strip() if with_token else asked("API key", hidden=True)
    if not key:
        raise SettingsError("The key is empty; nothing was kept.")
    with Client(settings=Settings(url, {"X-Kelpie-Key": key})) as api:
        me = api.request("GET", "/users/me")
    write_profile(name, {"api_url": url, "api_key": key}, config_file())
    say(f"You are {me['username']} at {url}; kept as profile {name} in {config_file()}.")


def asked(question: str, hidden: bool = False) -> str:
    """What a person types. Raises click.UsageError without a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{question}? There is no terminal to ask at: give --api-url, and the key with --with-token."
        )
    return str(click.prompt(question, hide_input=hidden, err=True))


@click.command()
@click.option("--json", "json_wanted", is_flag=True)
def whoami(json_wanted: bool) -> None:
    """Say which user the coordinator sees, and where the key came from."""
    with client() as api:
        me: dict[str, Any] = api.request("GET", "/users/me")
        known = {"user": me["username"], "address": api.server.url, "profile": api.settings.profile or None}
        if json_wanted:
            as_json({**me, **known})
            return
        for name, value in known.items():
            fact(name, plain("none: the key is from the environment" if value is None else value))


@click.command()
@click.option("--remove", metavar="NAME", help="Forget this profile.")
@click.option("--json", "json_wanted", is_flag=True, help="One profile a line.")
def profiles(remove: str | None, json_wanted: bool) -> None:
    """List the profiles that login kept, without their keys."""
    file = config_file()
    found = read_profiles(file)
    if remove:
        if remove not in found:
            raise SettingsError(f"There is no profile {remove}.")
        write_profile(remove, None, file)
        say(f"Forgot {remove}.")
        return
    if not found:
        say("No profile is kept; kelpie login makes one.")
    if json_wanted:
        for name, profile in sorted(found.items()):
            as_json({"profile": name, "address": profile.get("api_url")})
        return
    table(("PROFILE", "ADDRESS"), [(name, profile.get("api_url", "")) for name, profile in sorted(found.items())])
