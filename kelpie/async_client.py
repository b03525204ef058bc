"""The client for programs with an event loop: the operations and names of `client`, awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from kelpie import operations
from kelpie.client import Parameters, failure, filters_of, jobs_html, made_definition, user_agent
from kelpie.definitions import Folders
from kelpie.errors import JobCanceled
from kelpie.exchange import PATIENCE, Server
from kelpie.models import Attempt, BulkResult, Event, JobData, Reason, SweepData
from kelpie.operations import Lines, Piece
from kelpie.settings import Settings, find
from kelpie.steps import Steps, iterate_async, run_async


@dataclass(frozen=True)
class AsyncJob(JobData):
    """A job as it was when it was asked for, of an AsyncClient; see `Job`."""

    client: AsyncClient = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    async def refresh(self) -> AsyncJob:
        return await self.client.job(self.id)

    async def cancel(self, graceful: bool = False) -> None:
        await self.client.do(operations.cancel(self.client.server, self.id, graceful))

    async def hold(self) -> None:
        await self.client.do(operations.act(self.client.server, self.id, "hold"))

    async def resume(self) -> None:
        await self.client.do(operations.act(self.client.server, self.id, "resume"))

    async def interrupt(self, ban: bool = False) -> None:
        await self.client.do(operations.interrupt(self.client.server, self.id, ban))

    async def rerun(self, *, fresh: bool = False, sweep: bool = False) -> AsyncJob:
        return self.client.as_job(
            await self.client.do(operations.rerun(self.client.server, self.id, fresh, sweep))
        )

    async def edit(self, **changes: Any) -> AsyncJob:
        return self.client.as_job(await self.client.do(operations.edit(self.client.server, self.id, changes)))

    async def why(self) -> list[Reason]:
        return [Reason.from_json(row) for row in await self.client.do(operations.why(self.client.server, self.id))]

    async def attempts(self) -> list[Attempt]:
        rows = iterate_async(operations.history(self.client.server, self.id, "attempts"), self.client.http)
        return [Attempt.from_json(row) async for row in rows]

    async def events(self) -> list[Event]:
        rows = iterate_async(operations.history(self.client.server, self.id, "events"), self.client.http)
        return [Event.from_json(row) async for row in rows]

    def pieces(
        self, *, follow: bool = False, attempt: int | None = None, after: Piece | None = None
    ) -> AsyncIterator[Piece]:
        return iterate_async(
            operations.output(self.client.server, self.id, follow=follow, attempt=attempt, after=after),
            self.client.http,
        )

    async def logs(self, *, follow: bool = False, attempt: int | None = None) -> AsyncIterator[str]:
        lines = Lines()
        async for piece in self.pieces(follow=follow, attempt=attempt):
            for line in lines.of(piece):
                yield line
        for line in lines.rest():
            yield line

    async def wait(self, timeout: float | None = None) -> AsyncJob:
        """The job once it is final, however it ended. Raises TimedOut."""
        async for ended in self.client.as_completed([self], timeout=timeout):
            return ended
        return await self.refresh()

    async def result(self, timeout: float | None = None) -> AsyncJob:
        """The completed job. Raises JobFailed, JobCanceled, TimedOut."""
        return await self.client.require_completed(await self.wait(timeout))

    def _repr_html_(self) -> str:
        return jobs_html([self])


@dataclass(frozen=True)
class AsyncSweep(SweepData):
    """A sweep as it was when it was asked for, iterable over its jobs; see `Sweep`."""

    client: AsyncClient = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def jobs(self, **filters: Any) -> AsyncJobs:
        return self.client.jobs(sweep=self.id, **filters)

    def __aiter__(self) -> AsyncIterator[AsyncJob]:
        return aiter(self.jobs())

    async def refresh(self) -> AsyncSweep:
        return await self.client.get_sweep(self.id)

    async def edit(self, **changes: Any) -> AsyncSweep:
        return self.client.as_sweep(await self.client.request("PATCH", f"/sweeps/{self.id}", changes))

    async def cancel(self) -> None:
        await self.client.request("DELETE", f"/sweeps/{self.id}")


class AsyncJobs:
    """The jobs that match filters: iterated newest first, page by page, or changed all at once; see `Jobs`."""

    def __init__(self, client: AsyncClient, filters: Mapping[str, Any]) -> None:
        self._client = client
        self._filters = {name: value for name, value in filters.items() if value is not None}

    async def __aiter__(self) -> AsyncIterator[AsyncJob]:
        async for row in iterate_async(operations.each_job(self._client.server, self._filters), self._client.http):
            yield self._client.as_job(row)

    async def first(self, most: int) -> list[AsyncJob]:
        """The newest `most` of them."""
        rows = iterate_async(operations.each_job(self._client.server, self._filters, most), self._client.http)
        return [self._client.as_job(row) async for row in rows]

    async def counts(self) -> dict[str, Any]:
        return dict(await self._client.do(operations.count(self._client.server, self._filters)))

    async def cancel(self, expect: int | None = None) -> BulkResult:
        return await self._all("cancel", expect)

    async def hold(self, expect: int | None = None) -> BulkResult:
        return await self._all("hold", expect)

    async def resume(self, expect: int | None = None) -> BulkResult:
        return await self._all("resume", expect)

    async def rerun(self, expect: int | None = None) -> BulkResult:
        return await self._all("rerun", expect)

    async def _all(self, verb: str, expect: int | None) -> BulkResult:
        return BulkResult.from_json(
            await self._client.do(operations.bulk(self._client.server, verb, self._filters, expect))
        )


class AsyncClient:
    """`Client` for an event loop: the same operations, awaited."""

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        profile: str | None = None,
        settings: Settings | None = None,
        folder: Path | None = None,
        patience: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings or find(
            api_url=api_url, api_key=api_key, profile=profile, environment=os.environ, folder=folder
        )
        self.server = Server(self.settings.api_url, PATIENCE if patience is None else patience)
        self.http = httpx.AsyncClient(
            base_url=self.settings.api_url,
            headers={**self.settings.headers, "User-Agent": user_agent()},
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.http.aclose()

    async def do(self, steps: Steps[Any]) -> Any:
        """Carry out an operation of `kelpie.operations`."""
        return await run_async(steps, self.http)

    async def request(
        self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """The JSON that a route answers; for what has no method of its own."""
        return await self.do(operations.request(self.server, method, path, body, params))

    def as_job(self, data: Mapping[str, Any]) -> AsyncJob:
        return AsyncJob.from_json(data, client=self)

    def as_sweep(self, data: Mapping[str, Any]) -> AsyncSweep:
        return AsyncSweep.from_json(data, client=self)

    async def submit(
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
    ) -> AsyncJob:
        """Submit a job; a lost answer makes no second one. See `Client.submit`."""
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
        return await self.submit_definition(made_definition(self.settings, command, given), key)

    async def submit_definition(self, made: Mapping[str, Any], key: str | None = None) -> AsyncJob:
        """Submit a definition as the route takes it."""
        return self.as_job(await self.do(operations.submit(self.server, dict(made), key)))

    async def submit_many(
        self, definitions: Sequence[Mapping[str, Any]], key: str | None = None
    ) -> list[AsyncJob]:
        made = [dict(one) for one in definitions]
        return [self.as_job(row) for row in await self.do(operations.submit_many(self.server, made, key))]

    async def sweep(
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
    ) -> AsyncSweep:
        """Submit a job for each set of parameters; see `Client.sweep`."""
        template = made_definition(self.settings, command, options)
        more = {"max_parallel": max_parallel, "labels": labels, "webhook": sweep_webhook}
        plan = operations.plan_sweep(template, parameters, name, **more)
        return self.as_sweep(await self.do(operations.submit_sweep(self.server, plan, again)))

    async def job(self, job_id: str) -> AsyncJob:
        return self.as_job(await self.do(operations.get_job(self.server, job_id)))

    async def find(self, reference: str, *, changing: bool = False) -> AsyncJob:
        """The job with this id, end of an id or name. Raises NotFound, Ambiguous if `changing`."""
        return self.as_job(await self.do(operations.resolve(self.server, reference, changing)))

    def jobs(self, **filters: Any) -> AsyncJobs:
        """The jobs that match; the filters are those of `Client.jobs`."""
        return AsyncJobs(self, filters_of(**filters))

    async def get_sweep(self, sweep_id: str) -> AsyncSweep:
        return self.as_sweep(await self.request("GET", f"/sweeps/{sweep_id}"))

    async def sweeps(self) -> list[AsyncSweep]:
        rows = iterate_async(operations.each_sweep(self.server), self.http)
        return [self.as_sweep(row) async for row in rows]

    async def as_completed(
        self, jobs: Iterable[JobData] | AsyncIterable[JobData], timeout: float | None = None
    ) -> AsyncIterator[AsyncJob]:
        """Each job as it ends, with one request at a time however many there are. Raises TimedOut."""
        waited = jobs if isinstance(jobs, Iterable) else [job async for job in jobs]
        ids = [job.id for job in waited]
        async for row in iterate_async(operations.until_final(self.server, ids, timeout), self.http):
            yield self.as_job(row)

    async def require_completed(self, job: AsyncJob) -> AsyncJob:
        """The job if it completed. Raises JobFailed, JobCanceled."""
        if job.status == "canceled":
            raise JobCanceled(f"The job {job.title} was canceled.", job)
        if job.status == "failed":
            tail = await self.do(operations.last_output(self.server, {"id": job.id, "attempt": job.attempt}))
            raise failure(job, await job.attempts(), tail)
        return job
