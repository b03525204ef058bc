"""How much is sent of a file that only grows, beside its final size."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bench.harness import Goals
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory
from kelpie_worker.checkpoints.watch import Checkpoints, WatchCallbacks, WatchContext
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.objects import UNKNOWN, ObjectState, Part, Stored, Target
from kelpie_worker.system.linux import boottime
from kelpie_worker.transfer.file_upload import Transfer
from local_stack.processes import scratch_folder
from local_stack.s3 import S3Server

BUCKET = "bench"
MIB = 1024 * 1024
TIMES = WatchTimes(debounce=0, stability=0.02, max_wait=0.5)


class CountingStorage(Storage):
    """Counts the bytes of all uploads. With `copies` false it is storage that copies no parts."""

    sent = 0
    copies = True

    def copies_parts(self, bucket: str) -> bool:
        return self.copies and super().copies_parts(bucket)

    def send_part(self, target: Target, upload_id: str, number: int, body: bytes) -> Part:
        self.sent += len(body)
        return super().send_part(target, upload_id, number, body)

    def put(self, target: Target, body: bytes, over: ObjectState = UNKNOWN) -> Stored:
        self.sent += len(body)
        return super().put(target, body, over)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", default=64, show_default=True, help="MiB of the large file at its end; the small one has 4."
)
@click.option("--looks", default=60, show_default=True, help="How often it has grown when it is looked at.")
@click.option("--small", is_flag=True, help="12 MiB and 8 looks.")
def main(size: int, looks: int, small: bool) -> None:
    size, looks = (12, 8) if small else (size, looks)
    goals = Goals(judged=not small)
    with scratch_folder() as folder:
        server = S3Server(folder)
        server.start()
        server.create_bucket(BUCKET)
        os.environ.update(server.environment)
        for name, goal, mib, copies in (
            ("large, storage copies parts", 1.5, size, True),
            ("large, storage copies none", 3.0, size, False),
            ("small", 3.0, 4, True),
        ):
            times = times_sent(folder / name.replace(" ", "-"), mib * MIB, looks, copies)
            judge = goals.figure if goal < 3 else goals.fact
            judge(f"{name}: {times:.2f} times its final size, whole at every look {looks / 2:.0f}", times <= goal)
        server.stop()
    sys.exit(goals.verdict())


def times_sent(folder: Path, size: int, looks: int, copies: bool) -> float:
    """Bytes sent of a file that grows evenly, until its watch has ended : its final size."""
    folder.mkdir()
    lease = Lease()
    lease.renew(boottime() + 86_400)
    storage = CountingStorage(SharedClient(None), lease, max_retries=2)
    storage.copies = copies
    watch = watch_of(folder, storage, lease)
    for _ in range(looks):
        with (folder / "log").open("ab") as log:
            log.write(os.urandom(size // looks))
        watch.cycle(final=False)
    watch.finish()
    return storage.sent / (folder / "log").stat().st_size


def watch_of(folder: Path, storage: Storage, lease: Lease) -> Checkpoints:
    job, block = Job("bench", "bench"), SyncBlock(BUCKET, f"{folder.name}/", str(folder))
    fence = Fence(job, storage, lease, lambda: None)
    transfer = Transfer(storage, compression=False)
    context = WatchContext(job, transfer, lease, fence, Overlaps(job), TIMES, frozenset())
    callbacks = WatchCallbacks(
        busy=lambda paths: None, committed=lambda looked: None, refused=lambda refusal: None
    )
    return Checkpoints(context, block, str(folder), DirectoryHistory({}, {}, {}, False), callbacks)


if __name__ == "__main__":
    main()
