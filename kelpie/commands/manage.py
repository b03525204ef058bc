"""What belongs to a whole project: sweeps, machines, groups, usage, secrets, keys."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

import click

from kelpie import operations
from kelpie.commands.common import client, sure, sweep_id
from kelpie.errors import DefinitionError
from kelpie.exchange import require
from kelpie.models import instant
from kelpie.show import age, as_json, bar, duration, fact, plain, say, table
from kelpie.steps import iterate

JSON = click.option("--json", "json_wanted", is_flag=True, help="One JSON object a line.")


def rows_of(body: Any, *names: str) -> list[dict[str, Any]]:
    """The rows of an answer: a list, or the list that one of these keys has."""
    if isinstance(body, list):
        return body
    return next((body[name] for name in names if name in body), [])


def show_rows(rows: Sequence[dict[str, Any]], columns: Sequence[tuple[str, Any]], json_wanted: bool) -> None:
    """Rows as JSON, or as a table of columns: a head, and what makes a cell of a row."""
    if json_wanted:
        for row in rows:
            as_json(row)
        return
    table([head for head, _ in columns], [[cell(row) for _, cell in columns] for row in rows])


def shown(name: str) -> Any:
    return lambda row: "" if row.get(name) is None else row[name]


def ago(name: str) -> Any:
    return lambda row: age(instant(row.get(name)))


def lasting(name: str) -> Any:
    return lambda row: duration(row.get(name))


@click.group(invoke_without_command=True)
@JSON
@click.option("--limit", type=click.IntRange(1), default=200, metavar="N", help="So many at most; 200.")
@click.pass_context
def sweeps(ctx: click.Context, json_wanted: bool, limit: int) -> None:
    """List sweeps, newest first."""
    if ctx.invoked_subcommand:
        return
    with client() as api:
        rows = list(islice(iterate(operations.each_sweep(api.server), api.http), limit))
        columns = [
            ("NAME", shown("name")),
            ("ID", lambda row: row["id"][-8:]),
            ("DONE", lambda row: bar(row["done"] / row["total"] if row.get("total") else None, 10)),
            ("JOBS", shown("total")),
            ("PARALLEL", shown("max_parallel")),
            ("STATE", lambda row: "closed" if row.get("closed") else "open"),
            ("AGE", ago("created")),
        ]
        show_rows(rows, columns, json_wanted)


@sweeps.command("edit")
@click.argument("reference", metavar="SWEEP")
@click.option("--max-parallel", type=int, metavar="N")
@click.option("-n", "--name", metavar="NAME")
@click.option("--close", "closed", is_flag=True, default=None, help="No job is added any more.")
def edit_sweep(reference: str, **changes: Any) -> None:
    """Change a sweep."""
    said = {name: value for name, value in changes.items() if value is not None}
    with client() as api:
        click.echo(api.request("PATCH", f"/sweeps/{sweep_id(api, reference)}", said)["id"])


@sweeps.command("cancel")
@click.argument("reference", metavar="SWEEP")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
def cancel_sweep(reference: str, yes: bool) -> None:
    """End all jobs of a sweep that are open."""
    with client() as api:
        found = sweep_id(api, reference)
        sure(f"Cancel all open jobs of {reference}?", yes)
        api.request("DELETE", f"/sweeps/{found}")


@click.command()
@click.option("-g", "--group", metavar="GROUP")
@JSON
def machines(group: str | None, json_wanted: bool) -> None:
    """List the machines heard of lately, with their bans and interruptions."""
    with client() as api:
        body = api.request("GET", "/machines", params={"container_group_id": group})
        columns = [
            ("MACHINE", shown("machine_id")),
            ("GROUP", shown("container_group_id")),
            ("SEEN", ago("last_seen")),
            ("BANS", shown("bans")),
            ("INTERRUPTIONS", shown("interruptions")),
            ("FAILURES", shown("failures")),
            ("USEFUL", lambda row: "" if row.get("useful_share") is None else f"{row['useful_share']:.0%}"),
        ]
        show_rows(rows_of(body, "machines"), columns, json_wanted)


@click.group()
def groups() -> None:
    """Pause and resume container groups, and set their price."""


@groups.command("show")
@click.argument("group", metavar="GROUP")
@JSON
def show_group(group: str, json_wanted: bool) -> None:
    """Show what a group has to do."""
    with client() as api:
        body = api.request("GET", f"/container-groups/{group}/metrics")
        if json_wanted:
            as_json(body)
            return
        for name, value in body.items():
            fact(name, "" if value is None else plain(value), columns=24)


@groups.command("pause")
@click.argument("group", metavar="GROUP")
def pause_group(group: str) -> None:
    """Hand no job to the machines of a group; what runs goes on."""
    change_group(group, {"paused": True})


@groups.command("resume")
@click.argument("group", metavar="GROUP")
def resume_group(group: str) -> None:
    """Hand jobs to the machines of a group again."""
    change_group(group, {"paused": False})


@groups.command("price")
@click.argument("group", metavar="GROUP")
@click.argument("per_hour", metavar="PER_HOUR", type=click.FloatRange(min=0))
def price_group(group: str, per_hour: float) -> None:
    """Set what an hour of a machine costs, for attempts that begin from now on."""
    change_group(group, {"price_per_hour": per_hour})


def change_group(group: str, changes: dict[str, Any]) -> None:
    with client() as api:
        api.request("PATCH", f"/container-groups/{group}", changes)
        said = ", ".join(f"{name} {str(value).lower()}" for name, value in changes.items())
        say(f"{group}: {said}.")


@click.command()
@click.option("--by", metavar="WHAT", default="group", help="group, machine, sweep, name or label:KEY.")
@click.option("--from", "begin", metavar="DATE", help="From this day on.")
@click.option("--to", "end", metavar="DATE", help="Until this day.")
@JSON
def usage(by: str, begin: str | None, end: str | None, json_wanted: bool) -> None:
    """Show how long machines held jobs, how much of it was useful or lost, and what it cost."""
    with client() as api:
        api.do(require(api.server, "usage", "usage"))
        body = api.request("GET", "/usage", params={"by": by, "from": begin, "to": end})
        columns = [
            (by.upper(), lambda row: row.get("key") or row.get(by) or ""),
            ("HELD", lasting("held")),
            ("USEFUL", lasting("useful")),
            ("LOST", lambda row: duration(lost_seconds(row.get("lost")))),
            ("ATTEMPTS", shown("attempts")),
            ("INTERRUPTIONS", shown("interruptions")),
            ("MONEY", lambda row: "" if row.get("money") is None else f"{row['money']:.2f}"),
        ]
        show_rows(rows_of(body, "usage", "rows"), columns, json_wanted)


def lost_seconds(lost: Any) -> float | None:
    """What was lost in all, where it is told by cause."""
    return sum(lost.values()) if isinstance(lost, dict) else lost


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def secrets(ctx: click.Context, json_wanted: bool) -> None:
    """List the names of secrets; a value is shown nowhere."""
    if ctx.invoked_subcommand:
        return
    with client() as api:
        columns = [("NAME", shown("name")), ("SET", ago("set")), ("BY", shown("by"))]
        show_rows(rows_of(api.request("GET", "/secrets"), "secrets"), columns, json_wanted)


@secrets.command("set")
@click.argument("name", metavar="NAME")
def set_secret(name: str) -> None:
    """Keep a secret; its value is read from standard input, or asked for. Never an argument."""
    if sys.stdin.isatty():
        value = str(click.prompt(f"Value of {name}", hide_input=True, err=True))
    else:
        value = sys.stdin.read().removesuffix("\n")
    if not value:
        raise DefinitionError("The value is empty; nothing was kept.")
    with client() as api:
        api.do(require(api.server, "secrets", "secrets"))
        api.request("PUT", f"/secrets/{name}", {"value": value})
        say(f"Kept {name}. A job gets it with: kelpie submit -s {name} -- ...")


@secrets.command("rm")
@click.argument("name", metavar="NAME")
def remove_secret(name: str) -> None:
    """Forget a secret. Refused while an open job names it."""
    with client() as api:
        api.request("DELETE", f"/secrets/{name}")


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def keys(ctx: click.Context, json_wanted: bool) -> None:
    """List the API keys of your project, by the beginnings of them."""
    if ctx.invoked_subcommand:
        return
    with client() as api:
        columns = [
            ("NAME", shown("name")),
            ("ROLE", shown("role")),
            ("KEY", shown("prefix")),
            ("ID", lambda row: str(row.get("id", ""))[-8:]),
            ("CREATED", ago("created")),
            ("USED", ago("last_used")),
        ]
        show_rows(rows_of(api.request("GET", "/keys"), "keys"), columns, json_wanted)


@keys.command("new")
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice(["operator", "viewer", "worker"]), default="operator")
def new_key(name: str, role: str) -> None:
    """Make a key; it is printed this once."""
    with client() as api:
        api.do(require(api.server, "keys", "keys with names"))
        made = api.request("POST", "/keys", {"name": name, "role": role})
        click.echo(made.get("token") or made.get("key"))
        say("Keep it: it is not shown again.")


@keys.command("rm")
@click.argument("reference", metavar="KEY")
@click.option("--self", "own", is_flag=True, help="Although it is the one in use.")
def remove_key(reference: str, own: bool) -> None:
    """Remove a key, by its id, the end of it, or its name."""
    with client() as api:
        found = [
            row
            for row in rows_of(api.request("GET", "/keys"), "keys")
            if reference in (row["id"], row.get("name")) or (len(reference) >= 6 and row["id"].endswith(reference))
        ]
        if len(found) != 1:
            raise DefinitionError(f"{len(found)} keys are called {reference}; kelpie keys lists them.")
        api.request("DELETE", f"/keys/{found[0]['id']}", params={"self": True} if own else None)
