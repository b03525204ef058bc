"""Prints what happens to the jobs, line by line: from what the API shows and from what the jobs print."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from local_stack.client import ApiClient, ApiUnavailableError, Job
from local_stack.stack import LocalStack

T = TypeVar("T")

PAUSE = 0.05  # seconds between two reads of the jobs' output
API_PAUSE = 0.3
API_PATIENCE = 2.0
BATCH_PAUSE = 2.0

# The examples print these, and `passing over ...` for a checkpoint that is not complete.
STEP = re.compile(r"(?P<job>\w+): step (?P<step>\d+) of (?P<total>\d+)")
RESUMED = re.compile(r"(?P<job>\w+): resumed from step (?P<step>\d+) of (?P<total>\d+)")
WORTH_TELLING = re.compile(r"(?P<job>\w+): (?P<text>starts|resumed .*|passing over .*)")


@dataclass
class FollowedJob:
    """One long job, as it was last seen."""

    name: str
    id: str
    status: str = "pending"
    attempt: int = 0
    machine_id: str | None = None
    step: int = 0
    total: int = 0
    runs_on: str | None = None  # the machine on which it last printed something, not what the API says
    resumes: list["Resume"] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        return self.status not in ("pending", "running")


@dataclass(frozen=True)
class Resume:
    step: int
    from_own_disk: bool


@dataclass
class FollowedBatch:
    """Many short jobs, of which only the number of finished ones is printed."""

    name: str
    ids: set[str]
    completed: int = 0
    quarters_printed: int = 0


class LineReader:
    """Complete new lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_lines(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._position += len(complete)
        return complete.decode(errors="replace").splitlines()


class JobWatcher:
    """Follows the jobs of a stack. Everything happens inside `until`: nothing runs in the background."""

    def __init__(self, stack: LocalStack) -> None:
        self.jobs: dict[str, FollowedJob] = {}
        self.batch: FollowedBatch | None = None
        self._stack = stack
        self._api = ApiClient(stack.api_url, stack.user_key, API_PATIENCE)
        self.api_answers = True
        self._began = time.monotonic()
        self._outputs: dict[Path, LineReader] = {}
        self._next_look = {"api": 0.0, "batch": 0.0}

    def tell(self, subject: str, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {subject:<11} {what}", flush=True)

    def tell_kill(self, what: str) -> None:
        bold_red, plain = ("\033[1;31m", "\033[0m") if sys.stdout.isatty() else ("", "")
        self.tell("*** KILL", f"{bold_red}{what}{plain}")

    def follow(self, name: str, job: Job) -> FollowedJob:
        self.jobs[name] = FollowedJob(name, job["id"])
        return self.jobs[name]

    def follow_batch(self, name: str, ids: list[str]) -> FollowedBatch:
        self.batch = FollowedBatch(name, set(ids))
        return self.batch

    def until(self, fact: Callable[[], T | None], what: str, timeout: float = 60) -> T:
        """Print what happens until `fact` returns something true, and return that.

        Raises TimeoutError, which names `what`, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._look()
            answer = fact()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
            time.sleep(PAUSE)

    def pass_time(self, seconds: float) -> None:
        """Print what happens for so many seconds: for an outage that has to last."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "time to pass", seconds + 60)

    def _look(self) -> None:
        for worker in self._stack.workers:
            reader = self._outputs.setdefault(worker.output, LineReader(worker.output))
            for line in reader.new_lines():
                self._read(line, worker.machine_id)
        if self._is_time("api", API_PAUSE):
            self._look_at_api()

    def _read(self, line: str, machine_id: str) -> None:
        if worth_telling := WORTH_TELLING.match(line):
            self.tell(worth_telling["job"], f"{worth_telling['text']}, on {machine_id}")
        progress = RESUMED.match(line) or STEP.match(line)
        if progress is None or progress["job"] not in self.jobs:
            return
        job = self.jobs[progress["job"]]
        job.step, job.total = int(progress["step"]), int(progress["total"])
        if progress.re is RESUMED:
            job.resumes.append(Resume(job.step, from_own_disk=machine_id == job.runs_on))
        job.runs_on = machine_id

    def _look_at_api(self) -> None:
        try:
            self._look_at_jobs()
            self._look_at_batch()
        except ApiUnavailableError:
            self._note_api(False)
        else:
            self._note_api(True)

    def _look_at_jobs(self) -> None:
        for job in self.jobs.values():
            if not job.is_final:
                self._compare(job, self._api.job(job.id))

    def _compare(self, known: FollowedJob, now: Job) -> None:
        if now["attempt"] != known.attempt:
            why = "" if known.attempt == 0 else f": {known.machine_id} no longer renewed its lease"
            self.tell(known.name, f"handed to {now['machine_id']}, attempt {now['attempt']}{why}")
        if now["status"] != known.status and now["status"] != "running":
            self.tell(known.name, f"{now['status']}, after {now['attempt']} attempts")
        known.status, known.attempt, known.machine_id = now["status"], now["attempt"], now["machine_id"]

    def _look_at_batch(self) -> None:
        batch = self.batch
        if batch is None or batch.completed == len(batch.ids) or not self._is_time("batch", BATCH_PAUSE):
            return
        completed = self._api.jobs(status="completed", page_size=1000)
        batch.completed = sum(job["id"] in batch.ids for job in completed)
        quarter = batch.completed * 4 // len(batch.ids)
        if quarter > batch.quarters_printed:
            batch.quarters_printed = quarter
            self.tell(batch.name, f"{batch.completed} of {len(batch.ids)} jobs completed")

    def _note_api(self, answers: bool) -> None:
        if answers != self.api_answers:
            self.api_answers = answers
            self.tell("api", "answers again" if answers else "does not answer; the workers carry on by themselves")

    def _is_time(self, what: str, pause: float) -> bool:
        if time.monotonic() < self._next_look[what]:
            return False
        self._next_look[what] = time.monotonic() + pause
        return True
