"""What changes jobs: cancel, hold, resume, interrupt, rerun, edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from kelpie import operations
from kelpie.client import Client, Job
from kelpie.commands.common import chosen, client, filter_options, filters, labels, matching, sure
from kelpie.definitions import seconds
from kelpie.errors import KelpieError, Refused
from kelpie.show import say

REFERENCES = click.argument("references", metavar="[REF]...", nargs=-1)
YES = click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
AT_ONCE = ("cancel", "hold", "resume", "rerun")  # what the coordinator does to all that match
HELD = ("downloading", "running", "uploading", "stalled")  # the phases of a job that a machine has


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
        if jobs is None and verb in AT_ONCE:
            change_all(api, verb, found, yes)
            return
        if jobs is None:
            jobs = matching(api, {"phase": HELD, **found} if verb == "interrupt" else found)
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
@REFERENCES
@filter_options
@YES
@click.option("--ban", is_flag=True, help="And do not give it to that machine again.")
def interrupt(references: tuple[str, ...], yes: bool, ban: bool, **options: Any) -> None:
    """Have machines save jobs and give them back; whichever asks next goes on."""
    change("interrupt", references, yes, options, lambda api, job: job.interrupt(ban))


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
@REFERENCES
@filter_options
@YES
@click.option("--rename", metavar="NAME", help="Its new name.")
@click.option("--set-label", multiple=True, metavar="K=V", help="Its new labels, in place of all; repeatable.")
@click.option("--priority", type=int, metavar="N", help="-100 to 100; higher first.")
@click.option("--max-runtime", metavar="3d", help="Held so long in all, it is stopped and failed.")
@click.option("--max-attempt-runtime", metavar="6h", help="Held so long by one machine, it is handed on.")
@click.option("--max-attempts", type=int, metavar="N", help="Handouts; 0: no limit.")
@click.option("--max-failures", type=int, metavar="N", help="Failures until it has failed for good.")
def edit(
    references: tuple[str, ...],
    yes: bool,
    rename: str | None,
    set_label: tuple[str, ...],
    priority: int | None,
    max_runtime: str | None,
    max_attempt_runtime: str | None,
    max_attempts: int | None,
    max_failures: int | None,
    **options: Any,
) -> None:
    """Change the name, labels, priority or limits of jobs."""
    said = {
        "name": rename,
        "labels": labels(set_label) or None,
        "priority": priority,
        "max_runtime": max_runtime and seconds(max_runtime),
        "max_attempt_runtime": max_attempt_runtime and seconds(max_attempt_runtime),
        "max_attempts": max_attempts,
        "max_failures": max_failures,
    }
    changes = {name: value for name, value in said.items() if value is not None}
    if not changes:
        raise click.UsageError("Say what to change, for example --priority 10.")
    change("edit", references, yes, options, lambda api, job: job.edit(**changes).id)
