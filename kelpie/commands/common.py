"""What many commands share: the client, filters, references, and the question before many jobs are changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from kelpie import operations
from kelpie.client import Client, Job, Jobs, filters_of
from kelpie.definitions import seconds
from kelpie.errors import DefinitionError, NotFound
from kelpie.exchange import Server
from kelpie.models import JobData, SweepData
from kelpie.show import as_json, jobs_table, say
from kelpie.steps import iterate

Command = TypeVar("Command", bound=Callable[..., Any])
# From its first word on all belongs to a job's command, also what looks like an option.
COMMAND_IS_LAST = {"allow_interspersed_args": False}
PATIENCE = 8.0  # seconds: a person waits for the sentence that the coordinator is away
PHASES = (
    "pending",
    "waiting",
    "parked",
    "downloading",
    "running",
    "uploading",
    "stalled",
    "completed",
    "failed",
    "canceled",
)


def client() -> Client:
    """The client with the settings of this call. Raises SettingsError."""
    said = click.get_current_context().find_root().obj or {}
    return Client(said.get("api_url"), profile=said.get("profile"), patience=PATIENCE)


def page(server: Server, place: str) -> str | None:
    """The address of a page for people, such as `/jobs/ID`; None at a coordinator that has no pages."""
    return f"{server.url}/ui{place}" if "pages" in (server.extensions or ()) else None


def say_page(server: Server, place: str) -> None:
    """Say at which address a page is, if there are pages."""
    if address := page(server, place):
        say(f"Its page: {address}")


def output_options(function: Command) -> Command:
    """--json and -q."""
    function = click.option("--json", "json_wanted", is_flag=True, help="One JSON object a line.")(function)
    return click.option("-q", "--quiet", is_flag=True, help="Ids only.")(function)


def filter_options(function: Command) -> Command:
    """The filters of jobs."""
    options = [
        click.option("-p", "--phase", multiple=True, type=click.Choice(PHASES), help="In this phase; repeatable."),
        click.option("-l", "--label", multiple=True, metavar="K=V", help="With this label; repeatable."),
        click.option("-n", "--name", metavar="NAME", help="With this name, or beginning so: 'lora*'."),
        click.option("-g", "--group", metavar="GROUP", help="Of this container group."),
        click.option("--sweep", metavar="SWEEP", help="Of this sweep, by id or name."),
        click.option("--since", metavar="2d", help="Submitted within this time."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def filters(
    api: Client,
    phase: Sequence[str] = (),
    label: Sequence[str] = (),
    name: str | None = None,
    group: str | None = None,
    sweep: str | None = None,
    since: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The filters of the options, without those that were not given."""
    found = filters_of(
        phase=list(phase) or None,
        labels=labels(label) or None,
        name=name,
        group=group,
        sweep=sweep_id(api, sweep) if sweep else None,
        since=moment(since) if since else None,
        **more,
    )
    return {key: value for key, value in found.items() if value is not None}


def moment(text: str) -> datetime:
    """The moment so long ago, such as `2d`."""
    return datetime.now(UTC) - timedelta(seconds=seconds(text))


def labels(texts: Sequence[str]) -> dict[str, str]:
    """`team=nlp` as a label. Raises DefinitionError."""
    return dict(pair(text, "A label") for text in texts)


def pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise DefinitionError(f"{what} looks like name=value, and this is {text!r}.")
    return name, value


def sweep_id(api: Client, reference: str) -> str:
    """The id of the sweep with this id or name, the newest of several. Raises NotFound."""
    if reference == "none":
        return reference
    found = find_sweep(api, reference)
    if found is None:
        raise NotFound(f"There is no sweep {reference}; kelpie sweeps lists them.", 404)
    return str(found["id"])


def find_sweep(api: Client, reference: str) -> dict[str, Any] | None:
    """The sweep with this id, end of an id (six digits or more) or name, the newest of several."""
    row: dict[str, Any]
    for row in iterate(operations.each_sweep(api.server), api.http):
        if reference in (row["id"], row["name"]) or (len(reference) >= 6 and row["id"].endswith(reference)):
            return row
    return None


def show_jobs(jobs: Sequence[JobData | SweepData], json_wanted: bool, quiet: bool) -> None:
    if quiet:
        for job in jobs:
            click.echo(job.id)
    elif json_wanted:
        for job in jobs:
            as_json(wire(job))
    else:
        jobs_table(jobs)


def wire(job: JobData | SweepData) -> dict[str, Any]:
    """A job as JSON."""
    names = [name for name in job.__dataclass_fields__ if name not in ("client", "extra")]
    return {**{name: getattr(job, name) for name in names}, **job.extra}


def chosen(api: Client, references: Sequence[str], found: dict[str, Any]) -> list[Job] | None:
    """The jobs that are named; None where filters say which. Raises click.UsageError for both or neither."""
    require_either(references, found)
    return [api.find(reference, changing=True) for reference in references] if references else None


def require_either(references: Sequence[str], found: Mapping[str, Any]) -> None:
    """Raise click.UsageError unless there are either references or filters."""
    if bool(references) == bool(found):
        raise click.UsageError(
            "Name jobs (ids, ends of ids, names), or give filters such as -l team=nlp; not both."
        )


def matching(api: Client, found: Mapping[str, Any]) -> list[Job]:
    """All jobs that match filters. Raises NotFound if there is none."""
    jobs = list(Jobs(api, found))
    if not jobs:
        raise NotFound("No job matches; kelpie ls -a with the same filters lists those that do.", 404)
    return jobs


def sure(question: str, yes: bool) -> None:
    """Ask before many jobs are changed; without a terminal refuse, so that a script says -y."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Say so with -y, since there is no terminal to ask at.")
    click.confirm(question, abort=True, err=True)
