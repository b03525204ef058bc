"""One job as the supervisor has it, and messages about it."""

from __future__ import annotations

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.messages import Ending, Message, Verdict

OUT = SyncBlock("bucket", "out/", "/job/out")
CHECKPOINTS = SyncBlock("bucket", "checkpoint/", "/job/checkpoint")
JOB = Job(
    "claim-1",
    "job-1",
    1,
    during=(CHECKPOINTS,),
    after=(OUT,),
    command="train",
    environment={"TOKEN": "secret"},
)
RELEASED = Ending(Verdict.RELEASED, "shutdown")


def c(kind: type, *values: object) -> Message:
    """A message about the job's claim."""
    return kind("claim-1", *values)  # type: ignore[no-any-return]
