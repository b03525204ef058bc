"""What goes wrong in the demo, in its order. Every kill is a SIGKILL of real processes."""

from local_stack.client import ApiUnavailableError, Job
from local_stack.demo import jobs
from local_stack.demo.job_watcher import FollowedJob, JobWatcher
from local_stack.postgres import EmbeddedPostgres
from local_stack.stack import LocalStack, Worker

API_OUTAGE = 3 * jobs.HEARTBEAT_INTERVAL  # seconds; longer than a lease
DATABASE_OUTAGE = 1.5
LONG = 180  # seconds; long enough for a slow machine


class Outages:
    """Kills parts of the stack one after the other, and waits until the jobs go on."""

    def __init__(self, stack: LocalStack, watcher: JobWatcher) -> None:
        self.stack = stack
        self.watcher = watcher
        self._machines = 0

    def run(self) -> None:
        self.lose_machine_while_computing(self.watcher.jobs["counting"])
        self.lose_machine_while_uploading(self.watcher.jobs["digits"])
        self.wait_for_new_holders()
        self.lose_api()
        if self.stack.postgres is not None:
            self.lose_postgres(self.stack.postgres)
        self.lose_worker_but_not_its_disk(self.job_with_most_left())
        self.wait_for_completion()

    def new_machine(self) -> Worker:
        self._machines += 1
        return self.stack.start_worker(f"machine-{self._machines}")

    def lose_machine_while_computing(self, job: FollowedJob) -> None:
        self.watcher.until(lambda: job.step >= 80, f"{job.name} to be well under way", LONG)
        self.watcher.until(
            lambda: self.stack.s3.keys(jobs.BUCKET, f"{job.name}/checkpoint/"), "its checkpoint", LONG
        )
        self.watcher.tell_kill(
            f"{job.machine_id} in the middle of {job.name}, seen at {job.place}; its disk is lost"
        )
        self.replace(self.holder(job))

    def lose_machine_while_uploading(self, job: FollowedJob) -> None:
        """Lose the machine when some files of a checkpoint are uploaded and its index, the last file, is not."""
        while not (checkpoint := self.crash_while_uploading(job)):
            self.watcher.tell(job.name, "the upload ended a moment before the kill; once more")
            self.holder(job).start()
            self.wait_for_progress()
        holder = self.holder(job)
        self.watcher.tell_kill(
            f"{holder.machine_id} while it uploads a checkpoint of {job.name}: {checkpoint} is in the bucket, "
            "but without its index; its disk is lost"
        )
        self.replace(holder)

    def crash_while_uploading(self, job: FollowedJob) -> str | None:
        """The checkpoint that is half uploaded after the crash; None if its upload had ended."""
        self.watcher.until(lambda: job.step >= 10 and self.half_uploaded(), "a checkpoint on its way up", LONG)
        self.holder(job).crash()
        return self.half_uploaded()

    def lose_api(self) -> None:
        before = self.attempts()
        self.watcher.tell_kill(f"the API: gunicorn and all its processes, for {API_OUTAGE} seconds")
        self.stack.kill_api()
        self.watcher.pass_time(API_OUTAGE)
        self.stack.start_api()
        self.wait_for_progress()
        renewed = "no job was" if self.attempts() == before else "JOBS WERE"
        self.watcher.tell("api", f"was away for longer than a lease, and {renewed} handed out anew")
        self.tell_where_they_are()

    def lose_postgres(self, postgres: EmbeddedPostgres) -> None:
        self.watcher.tell_kill("Postgres: immediate stop, without a checkpoint")
        postgres.stop(immediate=True)
        self.watcher.pass_time(DATABASE_OUTAGE)
        postgres.start()
        self.watcher.tell("postgres", "has recovered from its log")
        self.wait_for_progress()
        self.tell_where_they_are()

    def lose_worker_but_not_its_disk(self, job: FollowedJob) -> None:
        holder, before, attempt = self.holder(job), job.percent, job.attempt
        self.watcher.tell_kill(
            f"the worker on {holder.machine_id} with {job.name}, seen at {job.place}; its disk stays"
        )
        holder.crash()
        holder.start()
        self.wait_for_progress(job)
        if job.attempt == attempt:  # else the end of the attempt was told with what it lost
            self.watcher.tell(
                job.name,
                f"goes on in attempt {attempt} from its own disk: was seen at {before} %, now at {job.percent} %",
            )

    def replace(self, worker: Worker) -> None:
        worker.vanish()
        replacement = self.new_machine()
        self.watcher.tell(
            "fleet", f"{worker.machine_id} is gone, {replacement.machine_id} comes with an empty disk"
        )

    def job_with_most_left(self) -> FollowedJob:
        return min(self.watcher.jobs.values(), key=lambda job: job.step / max(1, job.total))

    def holder(self, job: FollowedJob) -> Worker:
        """The worker on the machine that has the job now, according to the API."""
        machine_id = self.shown(job)["machine_id"]
        return next(worker for worker in self.stack.workers if worker.machine_id == machine_id)

    def wait_for_new_holders(self) -> None:
        """Wait until both jobs go on where they were interrupted, and the API shows it."""
        jobs = self.watcher.jobs.values()
        self.watcher.until(lambda: all(job.is_final or job.resumes for job in jobs), "both jobs to go on", LONG)
        self.wait_for_progress()

    def wait_for_progress(self, *some: FollowedJob) -> None:
        """Wait until the API answers and shows another step of these jobs, or of every long one: the outage is
        over for all."""
        jobs = some or self.watcher.jobs.values()
        steps = {job.name: job.step for job in jobs}
        self.watcher.until(
            lambda: self.watcher.api_answers and all(job.is_final or job.step > steps[job.name] for job in jobs),
            "the jobs to make progress",
            LONG,
        )

    def tell_where_they_are(self) -> None:
        for job in self.watcher.jobs.values():
            self.watcher.tell(job.name, f"lost nothing: is at {job.percent} % in attempt {job.attempt}")

    def wait_for_completion(self) -> None:
        self.watcher.until(self.all_is_final, "all jobs to be completed", 4 * LONG)

    def all_is_final(self) -> bool:
        batch = self.watcher.batch
        long_jobs = all(job.is_final for job in self.watcher.jobs.values())
        return long_jobs and (batch is None or batch.completed == len(batch.ids))

    def attempts(self) -> dict[str, int]:
        return {job.id: self.shown(job)["attempt"] for job in self.watcher.jobs.values()}

    def shown(self, job: FollowedJob) -> Job:
        """The job as the API shows it; asks again while the API says that its database is unreachable."""

        def answer() -> Job | None:
            try:
                return self.stack.client.job(job.id)
            except ApiUnavailableError:
                return None

        return self.watcher.until(answer, "the API to answer", LONG)

    def half_uploaded(self) -> str | None:
        """The newest checkpoint in the bucket, if it has no index yet."""
        keys = self.stack.s3.keys(jobs.BUCKET, jobs.DIGITS_CHECKPOINTS)
        files = [key.removeprefix(jobs.DIGITS_CHECKPOINTS) for key in keys]
        newest = max((file.split("/")[0] for file in files), default=None)
        return None if f"{newest}/index.json" in files else newest
