"""Transfers a job's files in one direction by the worker's uploader: the program that bench.sync measures."""

from __future__ import annotations

import os
import queue
import sys
import time
from pathlib import Path

import click

from kelpie_worker import logs
from kelpie_worker.config import load
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import Download, Downloaded, Flush, Flushed, Message, Renew, Upload, Uploaded, Watch
from kelpie_worker.sync.uploader import Uploader
from kelpie_worker.system.linux import boottime

CLAIM = "bench"
ENDS = {"outputs": Uploaded, "checkpoint": Flushed, "download": Downloaded}


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", type=click.Choice(list(ENDS)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("bucket")
@click.argument("prefix")
def main(what: str, folder: Path, bucket: str, prefix: str) -> None:
    config = load({**os.environ, "SALAD_CONTAINER_GROUP_ID": CLAIM, "KELPIE_API_KEY": CLAIM})
    logs.configure(config)
    messages: queue.Queue[Message] = queue.Queue()
    uploader = Uploader(config, messages.put)
    uploader._client.get()  # boto3 is loaded once in a worker process
    begun, cpu = time.monotonic(), time.process_time()  # a worker's uploader is running before its job comes
    block = (SyncBlock(bucket, prefix, str(folder.resolve())),)
    uploader.carry_out(Renew(CLAIM, boottime() + 86_400))
    match what:
        case "outputs":
            path = str(folder.resolve())
            uploader.carry_out(Upload(Job(CLAIM, CLAIM, after=block), aside=((path, path),)))
        case "checkpoint":
            job = Job(CLAIM, CLAIM, during=block)
            uploader.carry_out(Watch(job))
            uploader.carry_out(Flush(job))
        case "download":
            uploader.carry_out(Download(Job(CLAIM, CLAIM, before=block)))
    failure = wait_for_end(messages, ENDS[what])
    click.echo(f"carried in {time.monotonic() - begun:.3f} s, {time.process_time() - cpu:.3f} s CPU")
    sys.exit(failure)


def wait_for_end(messages: queue.Queue[Message], end: type[Message]) -> str | None:
    """Wait for the transfer's end. Returns None, or the message that says why it failed."""
    while True:
        message = messages.get()
        if isinstance(message, end):
            return None
        if "Refused" in type(message).__name__ or "Troubled" in type(message).__name__:
            return str(message)


if __name__ == "__main__":
    main()
