"""Remove jobs that finished long ago, with all that belongs to them, from the database of DATABASE_URL.

Jobs in the queue stay, and so do jobs with a webhook that is still to be delivered. Decisions of the autoscaler,
machines and reallocations of that age go as well, and sweeps whose jobs are gone. It works in small steps with
pauses, so that workers are not slowed down, and may be stopped or killed at any time: what remains are whole jobs.
"""

import json
import re
import signal
import threading
import time
from datetime import timedelta

import click

from kelpie_api.commands.database import database
from kelpie_api.errors import Unavailable
from kelpie_api.machines import sightings
from kelpie_api.queue import sweeps
from kelpie_api.queue.retention import prune
from kelpie_api.scaling import rules

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=36_500)


class Age(click.ParamType[timedelta]):
    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,7})([mhdw])", str(value))
        age = timedelta(**{UNITS[found[2]]: int(found[1])}) if found else LONGEST
        if not found or age >= LONGEST:
            self.fail(f"{value!r} is no age; write a number and m, h, d or w, as in 30d.", param, ctx)
        return age


@click.command(help=__doc__)
@click.option(
    "--older-than", type=Age(), required=True, help="How long a finished job is kept: 90m, 12h, 30d, 8w."
)
@click.option("--batch", type=click.IntRange(1, 100_000), default=500, show_default=True, help="Jobs of one step.")
@click.option("--limit-seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long.")
@click.option("--dry-run", is_flag=True, help="Only count what would be removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def main(older_than: timedelta, batch: int, limit_seconds: float | None, dry_run: bool, as_json: bool) -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    began = time.monotonic()
    jobs = 0
    others = {"decisions": 0, "machines": 0, "sweeps": 0}
    complete = False
    with database() as db:
        try:
            if not dry_run:
                others["decisions"] = rules.prune_decisions(db, older_than)
                others["machines"] = sightings.prune(db, older_than)
                others["sweeps"] = sweeps.prune(db, older_than)
            for step in prune(db, older_than, batch, really=not dry_run):
                jobs += step.jobs
                late = limit_seconds is not None and time.monotonic() - began > limit_seconds
                if late or stopped.wait(0 if dry_run and not step.taken else step.pause):
                    break
            else:
                complete = True
        except Unavailable as error:
            raise click.ClickException(f"{error.message} Until then {jobs} jobs were removed.") from None
    report = {
        "jobs": jobs,
        **others,
        "dry_run": dry_run,
        "complete": complete,
        "seconds": round(time.monotonic() - began, 1),
    }
    did = "Would remove" if dry_run else "Removed"
    rest = "" if complete else " Stopped early: there may be more."
    click.echo(json.dumps(report) if as_json else f"{did} {jobs} jobs in {report['seconds']} seconds.{rest}")
