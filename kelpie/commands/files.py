"""The files of jobs, with the caller's own AWS settings: checkpoints, files, pull, push."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from kelpie.client import Client, Job
from kelpie.commands.common import client
from kelpie.commands.look import found_newest
from kelpie.definitions import place
from kelpie.errors import KelpieError, NotFound
from kelpie.models import instant
from kelpie.show import age, as_json, say, table
from kelpie.storage import Bucket, Entry, Stored


def manifest(api: Client, job: Job) -> dict[str, Any]:
    """The newest checkpoint of a job with its files. Raises KelpieError if there is none."""
    try:
        found: dict[str, Any] = api.request("GET", f"/jobs/{job.id}/checkpoint")
    except NotFound as error:
        raise KelpieError(f"The job {job.title} has no checkpoint yet.") from error
    return found


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="The manifest as JSON.")
def checkpoints(reference: str, json_wanted: bool) -> None:
    """Show the newest checkpoint that is whole in the bucket."""
    with client() as api:
        found = manifest(api, found_newest(api, reference))
        if json_wanted:
            as_json(found)
            return
        say(
            f"Generation {found['generation']} of attempt {found['attempt']},"
            f" {age(instant(found['reported']))} old."
        )
        rows = [(one["size"], f"s3://{one['bucket'] or ''}/{one['key']}") for one in found["files"]]
        table(("BYTES", "FILE"), rows)


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--json", "json_wanted", is_flag=True, help="One file a line.")
def files(reference: str, json_wanted: bool) -> None:
    """List the files of a job in its buckets: inputs, checkpoints, outputs."""
    with client() as api:
        job = found_newest(api, reference)
        rows = [(part, entry) for part, blocks in (job.sync or {}).items() for entry in listed(blocks)]
        if json_wanted:
            for part, entry in rows:
                as_json({"part": part, "url": entry.url, "size": entry.size, "modified": entry.modified})
            return
        table(
            ("PART", "BYTES", "AGE", "FILE"),
            [(part, entry.size, age(entry.modified), entry.url) for part, entry in rows],
        )


def listed(blocks: Sequence[dict[str, Any]]) -> Iterator[Entry]:
    seen = set()
    for block in blocks:
        where = (block["bucket"], block["prefix"])
        if where not in seen:
            seen.add(where)
            yield from Bucket(block["bucket"]).entries(block["prefix"])


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--outputs", "what", flag_value="outputs", default=True, help="What the job left (the default).")
@click.option("--checkpoint", "what", flag_value="checkpoint", help="What its newest checkpoint says, verified.")
def pull(reference: str, directory: Path, what: str) -> None:
    """Download the outputs or the checkpoint of a job."""
    with client() as api:
        job = found_newest(api, reference)
        wanted = of_checkpoint(api, job) if what == "checkpoint" else of_outputs(job)
    brought = 0
    for stored in wanted:
        stored.download(directory)
        brought += 1
    say(f"{brought} files are in {directory}.")


def of_outputs(job: Job) -> list[Stored]:
    """The files of the job's outputs. Raises KelpieError if it keeps none."""
    blocks = (job.sync or {}).get("after") or []
    if not blocks:
        raise KelpieError(f"The job {job.title} keeps no outputs: it has no part `after`.")
    found = []
    for block in blocks:
        bucket = Bucket(block["bucket"])
        found += [
            Stored(bucket, entry.key, block["prefix"], entry.size, None)
            for entry in bucket.entries(block["prefix"])
        ]
    return found


def of_checkpoint(api: Client, job: Job) -> list[Stored]:
    """The files of the manifest, each with what the bucket said of it when it was committed."""
    found = manifest(api, job)
    prefixes = {block["bucket"]: block["prefix"] for block in reversed((job.sync or {}).get("during") or [])}
    return [
        Stored(
            Bucket(one["bucket"]),
            one["key"],
            prefixes.get(one["bucket"], ""),
            one["size"],
            one["etag"],
            one["version_id"],
        )
        for one in found["files"]
    ]


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("url", metavar="s3://BUCKET/PREFIX")
def push(directory: Path, url: str) -> None:
    """Upload a directory, for jobs to bring as their input."""
    name, prefix = place(url)
    bucket = Bucket(name)
    sent = 0
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            bucket.upload(path, prefix + path.relative_to(directory).as_posix())
            sent += 1
    say(f"{sent} files are at s3://{name}/{prefix}")
