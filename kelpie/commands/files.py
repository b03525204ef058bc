"""The files of jobs, with the caller's own AWS settings: checkpoints, files, pull, push."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from kelpie.client import Client, Job
from kelpie.commands.common import client
from kelpie.commands.look import found_newest
from kelpie.definitions import place
from kelpie.errors import KelpieError, NotFound
from kelpie.meter import Meter
from kelpie.models import instant
from kelpie.show import age, as_json, say, table
from kelpie.storage import Bucket, Entry, Stored, bring

PARTS = {"before": "input", "during": "checkpoint", "after": "output"}  # with the names of the original's fields
CLOCKS_APART = timedelta(seconds=5)  # of the coordinator and the storage


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
        rows = [(part, entry) for part in PARTS for entry in listed(blocks_of(job, part))]
        if json_wanted:
            for part, entry in rows:
                as_json({"part": part, "url": entry.url, "size": entry.size, "modified": entry.modified})
            return
        table(
            ("PART", "BYTES", "AGE", "FILE"),
            [(part, entry.size, age(entry.modified), entry.url) for part, entry in rows],
        )


def blocks_of(job: Job, part: str) -> list[dict[str, Any]]:
    """The sync blocks of a part, also of a job that was submitted with the fields of the original."""
    if job.sync:
        return list(job.sync.get(part) or [])
    bucket, prefix = (job.extra.get(f"{PARTS[part]}_{what}") for what in ("bucket", "prefix"))
    return [{"bucket": bucket, "prefix": prefix or "", "local_path": PARTS[part]}] if bucket else []


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
    with Meter(sum(stored.size for stored in wanted)) as meter:
        bring(wanted, directory, meter.advance)
    say(f"{counted(len(wanted))} in {directory}.")


def counted(files: int) -> str:
    return "1 file is" if files == 1 else f"{files} files are"


def of_outputs(job: Job) -> list[Stored]:
    """The files of the job's outputs. Raises KelpieError if it keeps none."""
    blocks = blocks_of(job, "after")
    if not blocks:
        raise KelpieError(f"The job {job.title} keeps no outputs: it has no part `after`.")
    found = []
    for block, folder in zip(blocks, folders(blocks), strict=True):
        bucket = Bucket(block["bucket"])
        for entry in bucket.entries(block["prefix"]):
            if job.completed and entry.modified and entry.modified > job.completed + CLOCKS_APART:
                say(f"Warning: {entry.url} was changed {age(job.completed, entry.modified)} after the job's end.")
            found.append(Stored(bucket, entry.key, block["prefix"], entry.size, entry.etag, folder=folder))
    return found


def of_checkpoint(api: Client, job: Job) -> list[Stored]:
    """The files of the manifest, each with what the bucket said of it when it was committed."""
    blocks = blocks_of(job, "during")
    places = [
        (block["bucket"], block["prefix"], folder) for block, folder in zip(blocks, folders(blocks), strict=True)
    ]
    buckets = {bucket: Bucket(bucket) for bucket, _, _ in places}
    found = []
    for one in manifest(api, job)["files"]:
        fitting = [place for place in places if fits(one, *place[:2])]
        if not fitting:
            raise KelpieError(f"s3://{one['bucket']}/{one['key']} is under no prefix of the job {job.title}.")
        bucket, prefix, folder = max(fitting, key=lambda place: len(place[1]))
        found.append(
            Stored(buckets[bucket], one["key"], prefix, one["size"], one["etag"], one["version_id"], folder)
        )
    return found


def fits(one: dict[str, Any], bucket: str, prefix: str) -> bool:
    """Whether a file of a manifest belongs to a block. One that names no bucket is in the only one."""
    return one["bucket"] in (None, bucket) and one["key"].startswith(prefix)


def folders(blocks: Sequence[dict[str, Any]]) -> list[str]:
    """The directory for the files of each block: the one that they are brought to, or of several its own."""
    if len(blocks) == 1:
        return [""]
    return [block["local_path"].strip("/") for block in blocks]


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("url", metavar="s3://BUCKET/PREFIX")
def push(directory: Path, url: str) -> None:
    """Upload a directory, for jobs to bring as their input."""
    name, prefix = place(url)
    bucket = Bucket(name)
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    with Meter(sum(path.stat().st_size for path in paths)) as meter:
        for path in paths:
            bucket.upload(path, prefix + path.relative_to(directory).as_posix(), meter.advance)
    say(f"{counted(len(paths))} at s3://{name}/{prefix}")
