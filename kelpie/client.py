"""The client for programs; async_client.py has the one for an event loop. Both do the steps of `operations`."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import httpx

from kelpie import operations
from kelpie.definitions import Folders, definition
from kelpie.errors import DefinitionError, JobCanceled, JobFailed
from kelpie.exchange import PATIENCE, Server
from kelpie.models import Attempt, BulkResult, Event, JobData, Reason, SweepData
from kelpie.operations import Lines, Piece
from kelpie.settings import Settings, find
from kelpie.steps import Steps, iterate, run

Parameters = Sequence[Mapping[str, Any]]


def user_agent() -> str:
    """`kelpie-client/<version>`, which the coordinator's log shows."""
    from kelpie_version import VERSION

    return f"kelpie-client/{VERSION}"


def made_definition(
    settings: Settings, command: Sequence[str] | str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The definition of a job, with the defaults of the settings for what is left out."""
    whole = {
        "group": None,
        **settings.defaults,
        **{name: value for name, value in options.items() if value is not None},
    }
    return definition(command, **whole)


def filters_of(
    *,
    phase: str | Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    name: str | None = None,
    sweep: str | None = None,
    status: str | None = None,
    group: str | None = None,
    since: datetime | str | None = None,
    ended_since: datetime | str | None = None,
    open: bool | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The filters of `GET /jobs`, as the query names them. Raises DefinitionError for no phases or no ids."""
    for what, value in (("phase", phase), ("ids", ids)):
        if value is not None and not value:
            raise DefinitionError(f"{what} is empty, and would be no filter; None says that.")
    phases = [phase] if isinstance(phase, str) else phase
    times = {"since": since, "ended_since": ended_since}
    return {
        "phase": phases,
        "labels": labels,
        "name": name,
        "sweep": sweep,
        "status": status,
        "container_group_id": group,
        "open": open,
        "id": ids,
        **{key: value.isoformat() if isinstance(value, datetime) else value for key, value in times.items()},
    }


@dataclass(frozen=True)
class Job(JobData):
    """A job as it was when it was asked for. `refresh` asks again; a Job itself never changes."""

    client: Client = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def refresh(self) -> Job:
        return self.client.job(self.id)

    def cancel(self, graceful: bool = False) -> None:
        """End the job; with `graceful` after its last checkpoint is saved. Raises Refused if it has ended."""
        self.client.do(operations.cancel(self.client.server, self.id, graceful))

    def hold(self) -> None:
        """Let no machine have the job until `resume`; the machine that has it saves and gives it back."""
        self.client.do(operations.act(self.client.server, self.id, "hold"))

    def resume(self) -> None:
        self.client.do(operations.act(self.client.server, self.id, "resume"))

    def interrupt(self, ban: bool = False) -> None:
        """Have the machine save and give the job back; with `ban` it does not get it again."""
        self.client.do(operations.interrupt(self.client.server, self.id, ban))

    def rerun(self, *, fresh: bool = False, sweep: bool = False) -> Job:
        """A new job like this one, which has ended. `fresh` begins without its checkpoints."""
        return self.client.as_job(self.client.do(operations.rerun(self.client.server, self.id, fresh, sweep)))

    def edit(self, **changes: Any) -> Job:
        """Change name, labels, priority, limits or max_failures."""
        return self.client.as_job(self.client.do(operations.edit(self.client.server, self.id, changes)))

    def why(self) -> list[Reason]:
        """Why it is not running, in the coordinator's words."""
        return [Reason.from_json(row) for row in self.client.do(operations.why(self.client.server, self.id))]

    def attempts(self) -> list[Attempt]:
        rows = iterate(operations.history(self.client.server, self.id, "attempts"), self.client.http)
        return [Attempt.from_json(row) for row in rows]

    def events(self) -> list[Event]:
        rows = iterate(operations.history(self.client.server, self.id, "events"), self.client.http)
        return [Event.from_json(row) for row in rows]

    def pieces(
        self, *, follow: bool = False, attempt: int | None = None, after: Piece | None = None
    ) -> Iterator[Piece]:
        """The output as it arrives, in bytes, each piece with its attempt."""
        return iterate(
            operations.output(self.client.server, self.id, follow=follow, attempt=attempt, after=after),
            self.client.http,
        )

    def logs(self, *, follow: bool = False, attempt: int | None = None) -> Iterator[str]:
        """The output line by line, over all attempts; with `follow` until the job has ended."""
        lines = Lines()
        for piece in self.pieces(follow=follow, attempt=attempt):
            yield from lines.of(piece)
        yield from lines.rest()

    def wait(self, timeout: float | None = None) -> Job:
        """The job once it is final, however it ended. Raises TimedOut."""
        for ended in self.client.as_completed([self], timeout=timeout):
            return ended
        return self.refresh()

    def result(self, timeout: float | None = None) -> Job:
        """The completed job. Raises JobFailed, JobCanceled, TimedOut."""
        return self.client.require_completed(self.wait(timeout))

    def _repr_html_(self) -> str:
        return job_html(self)


@dataclass(frozen=True)
class Sweep(SweepData):
    """A sweep as it was when it was asked for, iterable over its jobs."""

    client: Client = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def jobs(self, **filters: Any) -> Jobs:
        return self.client.jobs(sweep=self.id, **filters)

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs())

    def refresh(self) -> Sweep:
        return self.client.get_sweep(self.id)

    def edit(self, **changes: Any) -> Sweep:
        """Change name, labels, max_parallel or closed."""
        return self.client.as_sweep(self.client.request("PATCH", f"/sweeps/{self.id}", changes))

    def cancel(self) -> None:
        """End all its jobs that are open."""
        self.client.request("DELETE", f"/sweeps/{self.id}")


class Jobs:
    """The jobs that match filters: iterated newest first, page by page, or changed all at once."""

    def __init__(self, client: Client, filters: Mapping[str, Any]) -> None:
        self._client = client
        self._filters = {name: value for name, value in filters.items() if value is not None}

    def __iter__(self) -> Iterator[Job]:
        for row in iterate(operations.each_job(self._client.server, self._filters), self._client.http):
            yield self._client.as_job(row)

    def first(self, most: int) -> list[Job]:
        """The newest `most` of them."""
        rows = iterate(operations.each_job(self._client.server, self._filters, most), self._client.http)
        return [self._client.as_job(row) for row in rows]

    def counts(self) -> dict[str, Any]:
        return dict(self._client.do(operations.count(self._client.server, self._filters)))

    def cancel(self, expect: int | None = None) -> BulkResult:
        return self._all("cancel", expect)

    def hold(self, expect: int | None = None) -> BulkResult:
        return self._all("hold", expect)

    def resume(self, expect: int | None = None) -> BulkResult:
        return self._all("resume", expect)

    def rerun(self, expect: int | None = None) -> BulkResult:
        return self._all("rerun", expect)

    def _all(self, verb: str, expect: int | None) -> BulkResult:
        """Change all; with `expect` only if so many match. Raises Refused, DefinitionError without a filter."""
        return BulkResult.from_json(
            self._client.do(operations.bulk(self._client.server, verb, self._filters, expect))
        )

    def _repr_html_(self) -> str:
        return jobs_html(self.first(50))


class Client:
    """A coordinator, as one caller sees it. Safe to share between threads.

    Settings are found as the command line finds them. Raises SettingsError.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        settings: Settings | None = None,
        folder: Path | None = None,
        patience: float | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings = settings or find(
            api_url=api_url, api_key=api_key, profile=profile, environment=os.environ, folder=folder
        )
        self.server = Server(self.settings.api_url, PATIENCE if patience is None else patience)
        self.http = httpx.Client(
            base_url=self.settings.api_url,
            headers={**self.settings.headers, "User-Agent": user_agent()},
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def do(self, steps: Steps[Any]) -> Any:
        """Carry out an operation of `kelpie.operations`."""
        return run(steps, self.http)

    def request(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a route answers; for what has no method of its own."""
        return self.do(operations.request(self.server, method, path, body, params))

    def as_job(self, data: Mapping[str, Any]) -> Job:
        return Job.from_json(data, client=self)

    def as_sweep(self, data: Mapping[str, Any]) -> Sweep:
        return Sweep.from_json(data, client=self)

    def submit(
        self,
        command: Sequence[str] | str,
        *,
        name: str | None = None,
        group: str | None = None,
        labels: Mapping[str, str] | None = None,
        checkpoint: Folders | None = None,
        input: Folders | None = None,
        output: Folders | None = None,
        environment: Mapping[str, str] | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Job:
        """Submit a job; a lost answer makes no second one.

        `checkpoint`, `input` and `output` map local directories to s3:// addresses. `options` are the other fields
        of a submission (docs/design/steering.md), such as `max_runtime="3d"` or `priority=10`.
        """
        given = {
            "name": name,
            "group": group,
            "labels": labels,
            "checkpoint": checkpoint,
            "input": input,
            "output": output,
            "environment": environment,
            **options,
        }
        made = made_definition(self.settings, command, given)
        return self.as_job(self.do(operations.submit(self.server, made, key)))

    def submit_definition(self, made: Mapping[str, Any], key: str | None = None) -> Job:
        """Submit a definition as the route takes it."""
        return self.as_job(self.do(operations.submit(self.server, dict(made), key)))

    def submit_many(self, definitions: Sequence[Mapping[str, Any]], key: str | None = None) -> list[Job]:
        made = [dict(one) for one in definitions]
        return [self.as_job(row) for row in self.do(operations.submit_many(self.server, made, key))]

    def sweep(
        self,
        command: Sequence[str] | str,
        parameters: Parameters,
        *,
        name: str,
        max_parallel: int | None = None,
        labels: Mapping[str, str] | None = None,
        sweep_webhook: str | None = None,
        again: bool = False,
        **options: Any,
    ) -> Sweep:
        """Submit a job for each set of parameters, which fill `{name}` in arguments, environment and prefixes.

        A script that is killed in the middle and run again makes each job once. `again=True` makes all anew.
        `sweep_webhook` is told once, when all have ended; such a sweep is closed once it has its jobs.
        """
        template = made_definition(self.settings, command, options)
        more = {"max_parallel": max_parallel, "labels": labels, "webhook": sweep_webhook}
        plan = operations.plan_sweep(template, parameters, name, **more)
        return self.as_sweep(self.do(operations.submit_sweep(self.server, plan, again)))

    def job(self, job_id: str) -> Job:
        return self.as_job(self.do(operations.get_job(self.server, job_id)))

    def find(self, reference: str, *, changing: bool = False) -> Job:
        """The job with this id, end of an id (six digits or more) or name.

        Raises NotFound, Ambiguous if `changing`.
        """
        return self.as_job(self.do(operations.resolve(self.server, reference, changing)))

    def jobs(self, **filters: Any) -> Jobs:
        """The jobs that match: phase, labels, name, sweep, status, group, since, ended_since, open, ids."""
        return Jobs(self, filters_of(**filters))

    def get_sweep(self, sweep_id: str) -> Sweep:
        return self.as_sweep(self.request("GET", f"/sweeps/{sweep_id}"))

    def sweeps(self) -> list[Sweep]:
        """All sweeps, newest first."""
        return [self.as_sweep(row) for row in iterate(operations.each_sweep(self.server), self.http)]

    def as_completed(self, jobs: Iterable[JobData], timeout: float | None = None) -> Iterator[Job]:
        """Each job as it ends, with one request at a time however many there are. Raises TimedOut."""
        ids = [job.id for job in jobs]
        for row in iterate(operations.until_final(self.server, ids, timeout), self.http):
            yield self.as_job(row)

    def require_completed(self, job: Job) -> Job:
        """The job if it completed. Raises JobFailed, JobCanceled."""
        if job.status == "canceled":
            raise JobCanceled(f"The job {job.title} was canceled.", job)
        if job.status == "failed":
            tail = self.do(operations.last_output(self.server, {"id": job.id, "attempt": job.attempt}))
            raise failure(job, job.attempts(), tail)
        return job


def as_completed(jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
    """Each job of one client (a list, a Sweep, a query) as it ends. Raises TimedOut."""
    waited = list(jobs)
    return waited[0].client.as_completed(waited, timeout) if waited else iter(())


def failure(job: JobData, attempts: Sequence[Attempt], tail: str) -> JobFailed:
    """The error of a failed job, with what its last attempt said."""
    last = attempts[-1] if attempts else Attempt()
    reason = last.reason or job.reason
    said = last.detail or (
        f"exit code {last.exit_code}" if last.exit_code is not None else reason or "no reason given"
    )
    failures = "1 failure" if job.num_failures == 1 else f"{job.num_failures} failures"
    sentence = f"The job {job.title} failed after {failures}: {said}."
    return JobFailed(sentence, job, reason, last.exit_code, tail)


# --- notebooks ----------------------------------------------------------------------------------------


def bar_html(fraction: float | None) -> str:
    if fraction is None:
        return ""
    share = min(max(fraction, 0.0), 1.0)
    return f'<progress max="1" value="{share:.4f}"></progress> {share:.0%}'


def row_html(job: JobData) -> str:
    cells = [job.title, job.phase, str(job.attempt), job.machine_id or ""]
    made = [f"<td>{html.escape(cell)}</td>" for cell in cells]
    return f"<tr>{made[0]}{made[1]}<td>{bar_html(job.progress.fraction)}</td>{made[2]}{made[3]}</tr>"


def jobs_html(jobs: Sequence[JobData]) -> str:
    """A small table for notebooks; everything that people wrote is escaped."""
    head = "".join(f"<th>{name}</th>" for name in ("name", "phase", "progress", "attempts", "machine"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(row_html, jobs))}</tbody></table>"


def job_html(job: JobData) -> str:
    return jobs_html([job])
