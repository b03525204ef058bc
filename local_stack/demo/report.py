"""The report at the end of the demo: every result compared with that of an uninterrupted run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local_stack.demo.job_watcher import FollowedBatch, FollowedJob
from local_stack.demo.jobs import BUCKET, OUTPUTS
from local_stack.demo.reference import output_of
from local_stack.stack import LocalStack

HEADER = (
    "job",
    "attempts",
    "interruptions",
    "failures",
    "goes on at",
    "held",
    "lost",
    "sha256 of output",
    "bytes",
)


@dataclass(frozen=True)
class Result:
    """The result of one job, or of a batch."""

    name: str
    jobs: int
    completed: int
    attempts: int
    interruptions: int
    failures: int
    goes_on_at: str
    held: float  # seconds
    lost: float
    output: Mapping[str, bytes]
    uninterrupted: Mapping[str, bytes]

    @property
    def is_right(self) -> bool:
        return self.completed == self.jobs and self.failures == 0 and self.same

    @property
    def same(self) -> bool:
        return bool(self.output) and self.output == self.uninterrupted

    def row(self) -> tuple[str, ...]:
        name = self.name if self.jobs == 1 else f"{self.name} x {self.jobs}"
        numbers = (str(number) for number in (self.attempts, self.interruptions, self.failures))
        verdict = "same" if self.same else f"DIFFERENT from {sha256(self.uninterrupted)}"
        seconds = f"{self.held:.1f} s", f"{self.lost:.1f} s"
        return (name, *numbers, self.goes_on_at, *seconds, sha256(self.output), verdict)


def result_of_job(stack: LocalStack, job: FollowedJob, reference: Path) -> Result:
    return result(
        stack, job.name, [job.id], ", ".join(f"{percent} %" for percent in job.resumes) or "-", reference
    )


def result_of_batch(stack: LocalStack, batch: FollowedBatch, reference: Path) -> Result:
    return result(stack, batch.name, sorted(batch.ids), "- (run again)", reference)


def result(stack: LocalStack, name: str, ids: list[str], goes_on_at: str, reference: Path) -> Result:
    known = {job["id"]: job for job in stack.client.jobs(page_size=10_000)}
    jobs = [known[job_id] for job_id in ids]
    spent = next(row for row in stack.client.usage(by="name")["usage"] if row["key"] == name)
    return Result(
        name=name,
        jobs=len(jobs),
        completed=sum(job["status"] == "completed" for job in jobs),
        attempts=spent["attempts"],
        interruptions=spent["interruptions"],
        failures=sum(job["num_failures"] for job in jobs),
        goes_on_at=goes_on_at,
        held=spent["held"],
        lost=spent["lost"]["interrupted"],
        output=stack.s3.files(BUCKET, OUTPUTS[name]),
        uninterrupted=output_of(reference, name),
    )


def sha256(files: Mapping[str, bytes]) -> str:
    """One digest of all names and contents, shortened for the table. The comparison itself is of the bytes."""
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
    return total.hexdigest()[:16]


def table(results: list[Result]) -> str:
    rows = [HEADER, *(result.row() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
