"""Prints what happens to the jobs, line by line: all of it from what the API shows, nothing from logs."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from local_stack.client import ApiClient, ApiUnavailableError, Job
from local_stack.stack import LocalStack

T = TypeVar("T")

PAUSE = 0.05  # seconds between two looks at what is waited for
API_PAUSE = 0.3
API_PATIENCE = 2.0
BATCH_PAUSE = 2.0
TOLD_EVERY = 10  # percent of a job


@dataclass
class FollowedJob:
    """One long job, as the API showed it last."""

    name: str
    id: str
    status: str = "pending"
    attempt: int = 0
    machine_id: str | None = None
    step: int = 0
    total: int = 0
    percent: int = 0
    told_percent: int = -1
    resumed_in: int = 1  # the last attempt of which it is known from where it went on
    resumes: list[int] = field(default_factory=list)  # percents

    @property
    def is_final(self) -> bool:
        return self.status not in ("pending", "running")

    @property
    def place(self) -> str:
        return f"{self.percent} % (step {self.step} of {self.total})"


@dataclass
class FollowedBatch:
    """Many short jobs, of which only the number of finished ones is printed."""

    name: str
    ids: set[str]
    completed: int = 0
    quarters_printed: int = 0


class JobWatcher:
    """Follows the jobs of a stack. Everything happens inside `until`: nothing runs in the background."""

    def __init__(self, stack: LocalStack) -> None:
        self.jobs: dict[str, FollowedJob] = {}
        self.batch: FollowedBatch | None = None
        self._api = ApiClient(stack.api_url, stack.user_key, API_PATIENCE)
        self.api_answers = True
        self._began = time.monotonic()
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
        if self._is_time("api", API_PAUSE):
            self._look_at_api()

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
            self._tell_handout(known, now)
        known.attempt, known.machine_id = now["attempt"], now["machine_id"]
        self._note_progress(known, now.get("progress") or {})
        if now["status"] != known.status and now["status"] != "running":
            self._tell_end(known, now)
        known.status = now["status"]

    def _tell_handout(self, known: FollowedJob, now: Job) -> None:
        for attempt in self._api.attempts(known.id):
            if known.attempt <= attempt["number"] < now["attempt"] and known.attempt:
                self.tell(known.name, f"{cost_of(attempt)}, at {known.percent} %")
        self.tell(known.name, f"handed to {now['machine_id']}, attempt {now['attempt']}")

    def _note_progress(self, job: FollowedJob, told: dict[str, Any]) -> None:
        if told.get("fraction") is None:
            return
        job.step, job.total, job.percent = told["step"], told["total"], int(100 * told["fraction"])
        if job.attempt > job.resumed_in:
            self._note_resume(job)
        elif job.percent // TOLD_EVERY != job.told_percent // TOLD_EVERY:
            job.told_percent = job.percent
            self.tell(job.name, job.place)

    def _note_resume(self, job: FollowedJob) -> None:
        """Tell where the attempt goes on, once its command has said it: until then the progress is the old."""
        resumed = self._api.progress(job.id)["resumed"]
        if resumed and resumed["attempt"] == job.attempt:
            before, after = (int(100 * resumed[name]) for name in ("from", "to"))
            job.resumed_in, job.told_percent = job.attempt, after
            job.resumes.append(after)
            self.tell(job.name, f"goes on, on {job.machine_id}: was seen at {before} %, now at {after} %")

    def _tell_end(self, job: FollowedJob, now: Job) -> None:
        self.tell(job.name, cost_of(self._api.attempts(job.id)[-1]))
        self.tell(job.name, f"{now['status']}, after {now['attempt']} attempts")

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


def cost_of(attempt: dict[str, Any]) -> str:
    """What an attempt that has ended was worth, in words."""
    seconds = ", ".join(f"{name} {attempt[name]:.1f} s" for name in ("held", "useful", "lost"))
    return f"attempt {attempt['number']} on {attempt['machine_id']} {attempt['outcome']}: {seconds}"
