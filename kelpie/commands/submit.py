"""`kelpie submit` and `kelpie sweep`."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from kelpie import grids, operations
from kelpie.client import Client, Job, made_definition
from kelpie.commands.common import COMMAND_IS_LAST, client, find_sweep, labels, pair, say_page
from kelpie.commands.look import follow, wait_for
from kelpie.errors import DefinitionError, NotFound
from kelpie.meter import Meter
from kelpie.settings import find
from kelpie.show import as_json, say

Command = TypeVar("Command", bound=Callable[..., Any])
DIRECTORY = "DIR=s3://BUCKET/PREFIX"
CLOSE = "kelpie sweeps edit --close"


def definition_options(function: Command) -> Command:
    """What a job and the template of a sweep have in common."""
    options = [
        click.option("-n", "--name", metavar="NAME", help="For people; need not be unique."),
        click.option("-l", "--label", multiple=True, metavar="K=V", help="A label; repeatable."),
        click.option("-g", "--group", metavar="GROUP", help="The container group; any of yours without it."),
        click.option(
            "--checkpoint", multiple=True, metavar=DIRECTORY, help="Brought before, and kept while it runs."
        ),
        click.option("--input", "inputs", multiple=True, metavar=DIRECTORY, help="Brought before the command."),
        click.option("--output", "outputs", multiple=True, metavar=DIRECTORY, help="Kept after the command."),
        click.option(
            "-e", "--env", multiple=True, metavar="K=V", help="A variable of the environment; repeatable."
        ),
        click.option("-s", "--secret", multiple=True, metavar="NAME", help="A secret, as a variable; repeatable."),
        click.option("--max-runtime", metavar="3d", help="Held so long in all, it is stopped and failed."),
        click.option("--max-attempt-runtime", metavar="6h", help="Held so long by one machine, it is handed on."),
        click.option("--max-attempts", type=int, metavar="N", help="Handouts; 0: no limit."),
        click.option("--max-failures", type=int, metavar="N", help="Failures until it has failed for good; 3."),
        click.option(
            "--retry-on",
            multiple=True,
            metavar="75=free",
            help="What an exit code means: retry, free, fail, hold.",
        ),
        click.option("--stall-after", metavar="30m", help="Without progress for so long it counts as stalled."),
        click.option("--on-stall", type=click.Choice(["notify", "restart", "fail"]), help="What is done then."),
        click.option("--priority", type=int, metavar="N", help="-100 to 100; higher first."),
        click.option("--webhook", metavar="URL", help="Told of its states."),
        click.option("--interval", "heartbeat_interval", metavar="30s", help="Between heartbeats; 30 seconds."),
        click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def options_of(
    label: Sequence[str],
    checkpoint: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    env: Sequence[str],
    secret: Sequence[str],
    retry_on: Sequence[str],
    **fields: Any,
) -> dict[str, Any]:
    """The options of the command line as those of `Client.submit`."""
    return {
        "labels": labels(label) or None,
        "checkpoint": dict(pair(text, "--checkpoint") for text in checkpoint) or None,
        "input": dict(pair(text, "--input") for text in inputs) or None,
        "output": dict(pair(text, "--output") for text in outputs) or None,
        "environment": dict(pair(text, "-e") for text in env) or None,
        "secrets": list(secret) or None,
        "retry": [retry_rule(text) for text in retry_on] or None,
        **fields,
    }


def retry_rule(text: str) -> dict[str, Any]:
    """`75=free` or `1,2=fail` as a rule of a submission. Raises DefinitionError."""
    codes, equals, what = text.partition("=")
    if (
        not equals
        or what not in ("retry", "free", "fail", "hold")
        or not all(code.isdigit() for code in codes.split(","))
    ):
        raise DefinitionError(f"--retry-on looks like 75=free (or retry, fail, hold), and this is {text!r}.")
    numbers = [int(code) for code in codes.split(",")]
    return {"exit_code": numbers[0] if len(numbers) == 1 else numbers, "do": what}


def read_definition(file: str) -> dict[str, Any]:
    """A definition from a file of JSON, TOML or YAML (`-`: JSON or YAML from standard input).

    Raises DefinitionError.
    """
    title = "Standard input" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{title} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    made = parsed(title, text)
    if not isinstance(made, dict):
        raise DefinitionError(f"{title} does not hold one job: an object with command, arguments and so on.")
    return {"container_group_id": None, **made}


def parsed(file: str, text: str) -> Any:
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        if file.endswith((".yaml", ".yml")) or (
            file == "Standard input" and not text.lstrip().startswith(("{", "["))
        ):
            return parsed_yaml(file, text)
        return json.loads(text)
    except ValueError as error:
        raise DefinitionError(f"{file} cannot be read: {error}.") from error


def parsed_yaml(file: str, text: str) -> Any:
    import yaml  # here, so that the command line starts without it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DefinitionError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error


@click.command(context_settings=COMMAND_IS_LAST)
@definition_options
@click.option(
    "-F", "--file", metavar="FILE", help="A whole definition, JSON, YAML or TOML; - reads standard input."
)
@click.option(
    "--depends-on", multiple=True, metavar="REF", help="Starts once this job or sweep has completed; repeatable."
)
@click.option("--wait", "wait_wanted", is_flag=True, help="Wait for its end; the exit code says how it ended.")
@click.option("--follow", "follow_wanted", is_flag=True, help="Print its output until its end.")
@click.option("--json", "json_wanted", is_flag=True, help="The job as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="The id only.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def submit(
    command: tuple[str, ...],
    file: str | None,
    depends_on: tuple[str, ...],
    wait_wanted: bool,
    follow_wanted: bool,
    dry_run: bool,
    json_wanted: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Submit a job: kelpie submit -n lora --checkpoint ckpt=s3://bucket/lora -- python train.py"""
    if bool(command) == bool(file):
        raise click.UsageError("Give the command after --, or a definition with -F; not both.")
    if dry_run:
        as_json(definition_of(None, command, file, options, depends_on))
        return 0
    with client() as api:
        made = definition_of(api, command, file, options, depends_on)
        job = api.submit_definition(made)
        tell(job, json_wanted, quiet)
        if follow_wanted:
            follow(api, job)
        return wait_for(api, [job], tail=not follow_wanted) if wait_wanted or follow_wanted else 0


def definition_of(
    api: Client | None,
    command: Sequence[str],
    file: str | None,
    options: dict[str, Any],
    depends_on: Sequence[str],
) -> dict[str, Any]:
    """The definition of a call; the file's fields count after those of the options.

    Without an API nothing is asked, and what a job depends on stays as it was typed.
    """
    given = options_of(**options)
    if depends_on:
        given["depends_on"] = [
            before_it(api, reference) if api else reference for reference in dict.fromkeys(depends_on)
        ]
    if file:
        made = made_definition_of_file(read_definition(file), given)
    else:
        said = click.get_current_context().find_root().obj or {}
        settings = api.settings if api else find(api_url=said.get("api_url") or "https://dry.run", api_key="none")
        made = made_definition(settings, list(command), given)
    return made


def before_it(api: Client, reference: str) -> str:
    """The id of the job or sweep that another job is to wait for. Raises NotFound, Ambiguous."""
    try:
        return api.find(reference, changing=True).id
    except NotFound:
        found = find_sweep(api, reference)
        if found is None:
            raise
    if not found["closed"]:
        say(f"The sweep {reference} may get more jobs; it has ended once it is closed: {CLOSE} {reference}")
    return str(found["id"])


def made_definition_of_file(made: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    from kelpie.definitions import definition

    words = [made.pop("command", ""), *made.pop("arguments", [])]
    kept = {name: value for name, value in given.items() if value is not None}
    group = kept.pop("group", None) or made.pop("container_group_id", None)
    made.pop("container_group_id", None)
    return definition(words, group=group, **{**made, **kept})


def tell(job: Job, json_wanted: bool, quiet: bool) -> None:
    for warning in job.warnings:
        say(f"Warning: {warning}")
    if json_wanted:
        from kelpie.commands.common import wire

        as_json(wire(job))
    elif quiet:
        click.echo(job.id)
    else:
        click.echo(job.id)
        say(f"Submitted {job.title}. See it with: kelpie show {job.id[-8:]}")
        say_page(job.client.server, f"/jobs/{job.id}")


@click.command(context_settings=COMMAND_IS_LAST)
@definition_options
@click.option(
    "-p", "--parameter", "axes", multiple=True, metavar="lr=1e-4,3e-4", help="A parameter; repeatable; seed=0..9."
)
@click.option("--csv", "csv_file", metavar="FILE", type=click.Path(path_type=Path), help="A job for each row.")
@click.option("--max-parallel", type=int, metavar="N", help="So many of its jobs at a time.")
@click.option(
    "--sweep-webhook", metavar="URL", help="Told once, when all have ended; it takes no job after these."
)
@click.option("--again", is_flag=True, help="Make it anew although it was submitted before.")
@click.option("--json", "json_wanted", is_flag=True, help="The sweep as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="The sweep's id only.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def sweep(
    command: tuple[str, ...],
    name: str | None,
    axes: tuple[str, ...],
    csv_file: Path | None,
    max_parallel: int | None,
    sweep_webhook: str | None,
    again: bool,
    json_wanted: bool,
    quiet: bool,
    dry_run: bool,
    label: tuple[str, ...],
    **options: Any,
) -> None:
    """Submit a job for each set of parameters: kelpie sweep -n grid -p lr=1e-4,3e-4 -- run.py --lr {lr}

    {name}, {index} and {sweep} are filled in, too, in arguments, environment and prefixes.
    """
    if not name:
        raise click.UsageError("A sweep has a name: -n NAME. Run again with it, it makes no job twice.")
    if not axes and not csv_file:
        raise click.UsageError("A sweep has parameters: -p lr=1e-4,3e-4, or --csv FILE.")
    parameters = combined(dict(grids.parse_axis(text) for text in axes), csv_file)
    said = click.get_current_context().find_root().obj or {}
    with nullcontext() if dry_run else client() as api:
        settings = api.settings if api else find(api_url=said.get("api_url") or "https://dry.run", api_key="none")
        plan = operations.plan_sweep(
            made_definition(settings, list(command), options_of(label=(), **options)),
            parameters,
            name,
            max_parallel=max_parallel,
            labels=labels(label) or None,
            webhook=sweep_webhook,
        )
        if api is None:
            for made in plan.definitions:
                as_json(made)
            return
        with Meter(len(plan.definitions), "jobs") as meter:
            made_sweep = api.do(operations.submit_sweep(api.server, plan, again, meter.reach))
        server = api.server
    if json_wanted:
        as_json(made_sweep)
    else:
        click.echo(made_sweep["id"])
    if not quiet:
        jobs = "1 job" if len(parameters) == 1 else f"{len(parameters)} jobs"
        say(f"Submitted {jobs}. See them with: kelpie ls --sweep {name}")
        say_page(server, f"/sweeps/{made_sweep['id']}")


def combined(axes: dict[str, list[str]], csv_file: Path | None) -> list[dict[str, Any]]:
    """Each row of the file with each combination of the parameters."""
    rows = grids.read_csv(csv_file) if csv_file else [{}]
    return [{**row, **point} for row in rows for point in (grids.grid(**axes) if axes else [{}])]
