"""What changes jobs: cancel, hold, resume, interrupt, rerun, edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from kelpie import operations
from kelpie.client import Client, Job
from kelpie.commands.common import chosen, client, filter_options, filters, labels, sure
from kelpie.definitions import seconds
from kelpie.errors import KelpieError, Refused
from kelpie.show import say

REFERENCES = click.argument("references", metavar="[REF]...", nargs=-1)
YES = click.option("-y", "--yes", is_flag=True, help="Ask nothing.")


def change(
    verb: str,
    references: Sequence[str],
    yes: bool,
    options: dict[str, Any],
    one: Callable[[Client, Job], str | None],
) -> None:
    """Change the named jobs one by one, or all that match at once; print their ids, or what `one` returns.

    Raises KelpieError once the others were changed.
    """
    with client() as api:
        found = filters(api, **options)
        jobs = chosen(api, references, found)
        if jobs is None:
            change_all(api, verb, found, yes)
            return
        if len(jobs) > 1:
            sure(f"{verb} {len(jobs)} jobs?", yes)
        refused = 0
        for job in jobs:
            try:
                click.echo(one(api, job) or job.id)
            except Refused as error:
                if len(jobs) == 1:
                    raise
                refused += 1
                say(str(error))
        if refused:
            raise KelpieError(f"{refused} of {len(jobs)} jobs were not changed.")


def change_all(api: Client, verb: str, found: dict[str, Any], yes: bool) -> None:
    counted = api.do(operations.count(api.server, found))
    number = counted.get("count", 0)
    more = bool(counted.get("more"))
    sure(f"{verb} all {number}{'+' if more else ''} jobs that match?", yes)
    result = api.do(operations.bulk(api.server, verb, found, None if more or yes else number))
    say(f"{result['count']} jobs: {verb}.")
    for refused in result.get("refused", []):
        say(f"Not changed: {refused}")


@click.command()
@REFERENCES
@filter_options
@YES
@click.option("--graceful", is_flag=True, help="Save the last checkpoint first.")
def cancel(references: tuple[str, ...], yes: bool, graceful: bool, **options: Any) -> None:
    """End jobs, by reference or by filters."""
    change("cancel", references, yes, options, lambda api, job: job.cancel(graceful))


@click.command()
@REFERENCES
@filter_options
@YES
def hold(references: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Give jobs to no machine until they are resumed; one that runs is saved and given back."""
    change("hold", references, yes, options, lambda api, job: job.hold())


@click.command()
@REFERENCES
@filter_options
@YES
def resume(references: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Let held jobs run again."""
    change("resume", references, yes, options, lambda api, job: job.resume())


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@click.option("--ban", is_flag=True, help="And do not give it to that machine again.")
@YES
def interrupt(references: tuple[str, ...], ban: bool, yes: bool) -> None:
    """Have the machine save a job and give it back; whichever asks next goes on."""
    change("interrupt", references, yes, {}, lambda api, job: job.interrupt(ban))


@click.command()
@REFERENCES
@filter_options
@YES
@click.option("--fresh", is_flag=True, help="Without the checkpoints of the job.")
def rerun(references: tuple[str, ...], yes: bool, fresh: bool, **options: Any) -> None:
    """Submit ended jobs anew."""

    def one(api: Client, job: Job) -> str:
        new = job.rerun(fresh=fresh)
        say(f"{job.title} runs again as {new.id}.")
        return new.id

    change("rerun", references, yes, options, one)


@click.command()
@click.argument("reference", metavar="REF")
@click.option("-n", "--name", metavar="NAME")
@click.option("-l", "--label", multiple=True, metavar="K=V", help="Replaces all labels; repeatable.")
@click.option("--priority", type=int)
@click.option("--max-runtime", metavar="3d")
@click.option("--max-attempt-runtime", metavar="6h")
@click.option("--max-attempts", type=int)
@click.option("--max-failures", type=int)
def edit(reference: str, label: tuple[str, ...], **options: Any) -> None:
    """Change a job's name, labels, priority or limits."""
    changes = {name: value for name, value in options.items() if value is not None}
    for name in ("max_runtime", "max_attempt_runtime"):
        if name in changes:
            changes[name] = seconds(changes[name])
    if label:
        changes["labels"] = labels(label)
    if not changes:
        raise click.UsageError("Say what to change, for example --priority 10.")
    with client() as api:
        click.echo(api.find(reference, changing=True).edit(**changes).id)
