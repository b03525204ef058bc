"""What is looked at: ls, show, why, logs, events, attempts, wait."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from kelpie import operations
from kelpie.client import Client, Job, Jobs
from kelpie.commands.common import client, filter_options, filters, moment, output_options, show_jobs, wire
from kelpie.definitions import seconds
from kelpie.errors import JobEnded, KelpieError, NotFound, NotSupported, Refused
from kelpie.models import Attempt
from kelpie.operations import Piece
from kelpie.show import (
    COLOURS,
    age,
    as_json,
    bar,
    duration,
    on_terminal,
    plain,
    room,
    say,
    sparkline,
    styled,
    table,
    timeline,
)
from kelpie.steps import iterate

EXIT = {"completed": 0, "failed": 10, "canceled": 11}
WATCH_PAUSE = 2.0  # seconds


@click.command()
@filter_options
@output_options
@click.option("-a", "--all", "all_wanted", is_flag=True, help="Also those that ended longer ago than a day.")
@click.option("-w", "--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), default=200, metavar="N", help="So many at most; 200.")
def ls(json_wanted: bool, quiet: bool, all_wanted: bool, watch: bool, limit: int, **options: Any) -> None:
    """List jobs that are open or ended within a day, newest first."""
    with client() as api:
        while True:
            jobs = listed(api, options, all_wanted, limit)
            if watch and on_terminal():
                click.clear()
            show_jobs(jobs, json_wanted, quiet)
            if not watch:
                return
            time.sleep(WATCH_PAUSE)


def listed(api: Client, options: dict[str, Any], all_wanted: bool, limit: int) -> list[Job]:
    """The jobs of a list. A coordinator that knows no filters lists its newest."""
    found = filters(api, **options)
    recent = not all_wanted and not found
    jobs = Jobs(api, found)
    if recent:
        day_ago = moment("1d")
        return [job for job in jobs.first(limit) if not job.is_final or (job.ended and job.ended >= day_ago)]
    return jobs.first(limit)


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="The job as JSON.")
def show(reference: str, json_wanted: bool) -> None:
    """Show one job."""
    with client() as api:
        job = found_newest(api, reference)
        if json_wanted:
            as_json(wire(job))
            return
        attempts = job.attempts()
        for name, value in facts(job):
            shown = styled(plain(value), fg=COLOURS.get(job.phase)) if name == "phase" else plain(value)
            click.echo(f"{styled(f'{name:<12}', bold=True)}{shown}")
        for metric, values in courses(api, job).items():
            click.echo(f"{styled(f'{plain(metric):<12}', bold=True)}{sparkline(values)} {values[-1]:g}")
        if attempts:
            click.echo(f"{styled('attempts', bold=True)}    {timeline(job, attempts, room(60, 12))}")
        if not job.is_final and job.phase in ("pending", "waiting", "parked", "stalled"):
            tell_why(job)


def facts(job: Job) -> list[tuple[str, str]]:
    """What is known of a job, as names and values; what is not known is left out."""
    progress, checkpoint = job.progress, job.checkpoint
    command = " ".join([job.command, *job.arguments])
    eta = duration((progress.eta - datetime.now(UTC)).total_seconds()) if progress.eta and not job.is_final else ""
    said = [
        ("name", job.name or ""),
        ("id", job.id),
        ("phase", job.phase + (f" ({', '.join(job.parked)})" if job.parked else "")),
        ("reason", job.reason or ""),
        (
            "progress",
            " ".join(
                part for part in (bar(progress.fraction, 20), eta and f"{eta} left", progress.message) if part
            ),
        ),
        ("checkpoint", f"{age(checkpoint.at)} old, generation {checkpoint.generation}" if checkpoint else ""),
        ("machine", job.machine_id or ""),
        ("group", job.container_group_id or "any"),
        ("labels", ", ".join(f"{key}={value}" for key, value in job.labels.items())),
        ("priority", str(job.priority) if job.priority else ""),
        ("failures", f"{job.num_failures} of {job.max_failures}" if job.num_failures else ""),
        ("submitted", f"{age(job.created)} ago"),
        ("command", command),
    ]
    return [(name, value) for name, value in said if value]


def courses(api: Client, job: Job) -> dict[str, list[float]]:
    """The numbers that the command reported over time, by name."""
    if "progress" not in (api.server.extensions or ()):
        return {}
    try:
        found = api.request("GET", f"/jobs/{job.id}/progress")
    except (NotFound, Refused):
        return {}
    courses: dict[str, list[float]] = {}
    for point in found.get("points", []):
        values = {**point, **(point.get("metrics") or {})}
        for name, value in values.items():
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and name not in ("attempt", "step", "total")
            ):
                courses.setdefault(name, []).append(float(value))
    return courses


def found_newest(api: Client, reference: str) -> Job:
    """The job that is meant; the newest of several of one name, which is said."""
    rows = api.do(operations.find_jobs(api.server, reference))
    if len(rows) > 1:
        say(f"{len(rows)} jobs are called {reference}; this is the newest.")
    return api.as_job(rows[0])


def tell_why(job: Job) -> None:
    try:
        reasons = job.why()
    except (NotSupported, NotFound):
        return
    for reason in reasons:
        click.echo(f"{styled('why', bold=True)}         {plain(reason.sentence)}")
        if reason.action:
            click.echo(f"            {plain(reason.action)}")


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="One reason a line.")
def why(reference: str, json_wanted: bool) -> None:
    """Say why a job is not running, in the coordinator's words."""
    with client() as api:
        job = found_newest(api, reference)
        for reason in job.why():
            if json_wanted:
                as_json(
                    {"code": reason.code, "sentence": reason.sentence, "action": reason.action, **reason.extra}
                )
            else:
                click.echo(plain(reason.sentence))
                if reason.action:
                    click.echo(f"  {plain(reason.action)}")


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="One event a line.")
def events(reference: str, json_wanted: bool) -> None:
    """List the changes of a job and their actors."""
    with client() as api:
        found = found_newest(api, reference).events()
        if json_wanted:
            for event in found:
                as_json(
                    {
                        "id": event.id,
                        "at": event.at,
                        "kind": event.kind,
                        "actor": event.actor,
                        "attempt": event.attempt,
                        "detail": event.detail,
                    }
                )
            return
        rows = [
            (
                event.at and event.at.strftime("%Y-%m-%d %H:%M:%S"),
                event.kind,
                event.attempt or "",
                event.actor,
                ", ".join(f"{key}={value}" for key, value in event.detail.items() if value is not None),
            )
            for event in found
        ]
        table(("AT", "WHAT", "TRY", "BY", "DETAIL"), rows)


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="One attempt a line.")
def attempts(reference: str, json_wanted: bool) -> None:
    """List the handouts of a job, how each ended, and what was lost."""
    with client() as api:
        job = found_newest(api, reference)
        found = job.attempts()
        if json_wanted:
            for attempt in found:
                as_json({name: getattr(attempt, name) for name in attempt.__dataclass_fields__ if name != "extra"})
            return
        if on_terminal() and found:
            click.echo(timeline(job, found, room(72)))
            click.echo("= held  . waits  C completed  F failed  I interrupted  R released  X canceled  > runs\n")
        table(
            ("TRY", "MACHINE", "OUTCOME", "HELD", "LOST", "CODE", "REASON"),
            [attempt_row(attempt) for attempt in found],
            [COLOURS.get(attempt.outcome or "running") for attempt in found],
        )


def attempt_row(attempt: Attempt) -> list[object]:
    held = attempt.held
    if held is None and attempt.claimed:
        held = ((attempt.ended or datetime.now(UTC)) - attempt.claimed).total_seconds()
    return [
        attempt.number,
        attempt.machine_id,
        attempt.outcome or "runs",
        duration(held),
        duration(attempt.lost),
        "" if attempt.exit_code is None else attempt.exit_code,
        attempt.detail or attempt.reason or "",
    ]


@click.command()
@click.argument("reference", metavar="REF")
@click.option("-f", "--follow", "follow_wanted", is_flag=True, help="Go on until the job has ended.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt only.")
@click.option("-n", "lines", type=click.IntRange(0), metavar="LINES", help="The last so many lines only.")
def logs(reference: str, follow_wanted: bool, attempt: int | None, lines: int | None) -> None:
    """Print what a job's command printed, over all its attempts."""
    with client() as api:
        job = found_newest(api, reference)
        if attempt and attempt > job.attempt and not follow_wanted:
            raise KelpieError(f"The job {job.title} has had {job.attempt} attempts, and so no attempt {attempt}.")
        pieces = job.pieces(follow=follow_wanted, attempt=attempt)
        if lines is None:
            for piece in pieces:
                write(piece)
            return
        kept: list[bytes] = []
        for piece in pieces:
            kept = (b"".join(kept) + piece.text).splitlines(keepends=True)[-lines or 10**9 :] if lines else []
        sys.stdout.buffer.write(b"".join(kept))


def write(piece: Piece) -> None:
    """A piece as it is, with a line where an attempt begins and where some was left out."""
    stream = sys.stdout.buffer
    if piece.begins:
        stream.flush()
        say(f"--- attempt {piece.attempt} ---")
    if piece.left_out:
        stream.flush()
        say(f"--- {piece.left_out} bytes were not kept ---")
    stream.write(piece.text)
    stream.flush()


def follow(api: Client, job: Job) -> None:
    """Print the output of a job until its end."""
    for piece in job.pieces(follow=True):
        write(piece)


@click.command()
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@click.option("--any", "any_wanted", is_flag=True, help="Until the first of them has ended.")
@click.option("--timeout", metavar="2h", help="So long at most; then exit code 12.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def wait(references: tuple[str, ...], any_wanted: bool, timeout: str | None, quiet: bool) -> int:
    """Wait until jobs have ended. The exit code is the highest of theirs: 0 completed, 10 failed, 11 canceled."""
    with client() as api:
        jobs = [found_newest(api, reference) for reference in references]
        return wait_for(api, jobs, any_wanted, seconds(timeout) if timeout else None, quiet)


def wait_for(
    api: Client,
    jobs: Sequence[Job],
    any_wanted: bool = False,
    timeout: float | None = None,
    quiet: bool = False,
    tail: bool = True,
) -> int:
    """Wait for the ends of jobs, say each (with the `tail` of a failed one's output), and return the exit code."""
    code = 0
    for row in iterate(operations.until_final(api.server, [job.id for job in jobs], timeout), api.http):
        ended = api.as_job(row)
        if not quiet:
            tell_end(api, ended, tail)
        code = max(code, EXIT[ended.status])
        if any_wanted:
            break
    return code


def tell_end(api: Client, job: Job, with_tail: bool = True) -> None:
    try:
        api.require_completed(job)
    except JobEnded as error:
        say(str(error))
        if with_tail and (tail := getattr(error, "tail", "")):
            say(tail.rstrip())
        return
    say(f"The job {job.title} completed.")
