"""What is looked at: ls, show, why, logs, events, attempts, wait."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import click

from kelpie import operations
from kelpie.client import Client, Job, Jobs
from kelpie.commands.common import (
    client,
    filter_options,
    filters,
    matching,
    moment,
    output_options,
    page,
    require_either,
    show_jobs,
    wire,
)
from kelpie.definitions import seconds
from kelpie.errors import JobEnded, KelpieError, NotFound, NotSupported, Refused
from kelpie.meter import Meter
from kelpie.models import Attempt, SweepData
from kelpie.operations import Piece
from kelpie.show import (
    COLOURS,
    age,
    as_json,
    bar,
    duration,
    fact,
    on_terminal,
    plain,
    room,
    say,
    sparkline,
    table,
    timeline,
)
from kelpie.steps import iterate

EXIT = {"completed": 0, "failed": 10, "canceled": 11}
WATCH_PAUSE = 2.0  # seconds
MOST_SWEEPS = 100  # that are looked at for a list: a page of them
MOST_ASKED = (
    20  # sweeps that are older than a day and have no open job: of each it is asked when the last one ended
)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@click.command()
@filter_options
@output_options
@click.option("-a", "--all", "all_wanted", is_flag=True, help="Also those that ended longer ago than a day.")
@click.option("-w", "--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), default=200, metavar="N", help="So many at most; 200.")
def ls(json_wanted: bool, quiet: bool, all_wanted: bool, watch: bool, limit: int, **options: Any) -> None:
    """List jobs that are open or ended within a day, newest first; without filters a sweep is one line."""
    with client() as api:
        while True:
            rows = listed(api, filters(api, **options), all_wanted, limit + 1, folded=not (json_wanted or quiet))
            if watch and on_terminal():
                click.clear()
            show_jobs(rows[:limit], json_wanted, quiet)
            if len(rows) > limit:
                say(
                    f"There are more than these {limit}; --limit {limit * 5} shows more, filters such as -p fewer."
                )
            if not watch:
                return
            time.sleep(WATCH_PAUSE)


def listed(
    api: Client, found: dict[str, Any], all_wanted: bool, limit: int, folded: bool
) -> Sequence[Job | SweepData]:
    """The jobs of a list, newest first; `folded` with a sweep in place of its jobs where no filter is given."""
    if found:
        return Jobs(api, found).first(limit)
    day_ago = moment("1d")
    alone: dict[str, Any] = {"sweep": "none"} if folded else {}
    parts = [alone] if all_wanted else [{**alone, "open": True}, {**alone, "ended_since": day_ago.isoformat()}]
    singles: dict[str, Job] = {}  # by their ids, for one may end between two requests
    for part in parts:
        for row in iterate(operations.each_job(api.server, part, limit, lenient=True), api.http):
            singles[row["id"]] = api.as_job(row)
        if "filters" not in (api.server.extensions or ()):
            jobs = list(singles.values())
            return [job for job in jobs if all_wanted or not job.is_final or (job.ended and job.ended >= day_ago)]
    rows: list[Job | SweepData] = [*singles.values()]
    rows += sweeps_of_today(api, all_wanted, limit) if folded and "sweeps" in (api.server.extensions or ()) else []
    return sorted(rows, key=lambda row: row.created or LONG_AGO, reverse=True)[:limit]


def sweeps_of_today(api: Client, all_wanted: bool, limit: int) -> list[SweepData]:
    """The newest sweeps that have open jobs, or of which a job ended within a day."""
    day_ago, asked = moment("1d"), 0
    kept = []
    for row in islice(iterate(operations.each_sweep(api.server), api.http), min(limit, MOST_SWEEPS)):
        sweep = SweepData.from_json(row)
        wanted = all_wanted or sweep.done < sweep.total or (sweep.created or LONG_AGO) >= day_ago
        if not wanted and asked < MOST_ASKED:
            asked += 1
            ended = {"sweep": sweep.id, "ended_since": day_ago.isoformat()}
            wanted = bool(api.do(operations.count(api.server, ended))["count"])
        kept += [sweep] if wanted else []
    return kept


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
            fact(name, plain(value), COLOURS.get(job.phase) if name == "phase" else None)
        for metric, values in courses(api, job).items():
            fact(plain(metric), f"{sparkline(values)} {values[-1]:g}")
        if attempts:
            fact("attempts", timeline(job, attempts, room(60, 12)))
        if address := page(api.server, f"/jobs/{job.id}"):
            fact("page", address)
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
        fact("why", plain(reason.sentence))
        if reason.action:
            fact("", plain(reason.action))


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
        after = None if lines is None else write_last(job, attempt, lines)
        if lines is None or follow_wanted:
            for piece in job.pieces(follow=follow_wanted, attempt=attempt, after=after):
                write(piece)


def write_last(job: Job, attempt: int | None, lines: int) -> Piece | None:
    """The last lines that there are; returns the piece that they end with."""
    kept: deque[bytes] = deque(maxlen=lines)
    last, rest = None, b""
    for last in job.pieces(attempt=attempt):
        *whole, rest = (rest + last.text).split(b"\n")
        kept.extend(line + b"\n" for line in whole)
    kept.extend([rest] if rest else [])
    sys.stdout.buffer.write(b"".join(kept))
    sys.stdout.buffer.flush()
    return last


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
@click.argument("references", metavar="[REF]...", nargs=-1)
@filter_options
@click.option("--any", "any_wanted", is_flag=True, help="Until the first of them has ended.")
@click.option("--timeout", metavar="2h", help="So long at most; then exit code 12.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def wait(references: tuple[str, ...], any_wanted: bool, timeout: str | None, quiet: bool, **options: Any) -> int:
    """Wait until jobs have ended. The exit code is the highest of theirs: 0 completed, 10 failed, 11 canceled."""
    with client() as api:
        found = filters(api, **options)
        require_either(references, found)
        jobs = [found_newest(api, reference) for reference in references] or matching(api, found)
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
    with Meter(len(jobs), "jobs", shown=len(jobs) > 1 and not quiet) as meter:
        for row in iterate(operations.until_final(api.server, [job.id for job in jobs], timeout), api.http):
            ended = api.as_job(row)
            meter.hide()
            if not quiet:
                tell_end(api, ended, tail)
            meter.advance(1)
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
