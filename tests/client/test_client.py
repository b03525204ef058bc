"""What programs do with `kelpie.Client` and `kelpie.AsyncClient`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import kelpie
from kelpie import AsyncClient, Client
from tests.helpers import Client as Http


def test_a_submitted_job_is_what_was_said(api: Client) -> None:
    job = api.submit(["python", "train.py"], checkpoint={"ckpt": "s3://b/lora"}, output={"out": "s3://b/out/"})
    assert (job.command, job.arguments, job.status) == ("python", ["train.py"], "pending")
    assert job.container_group_id == "g1", "the default of the settings"
    assert job.sync is not None
    assert [block["direction"] for block in job.sync["before"]] == ["download"]
    assert job.sync["during"][0]["prefix"] == "lora/"
    assert job.sync["after"][0]["local_path"] == "out"
    assert api.job(job.id).created == job.created


def test_the_same_key_makes_no_second_job(api: Client) -> None:
    first = api.submit("true", key="once")
    assert api.submit("true", key="once").id == first.id
    assert len(list(api.jobs())) == 1


def test_a_batch_larger_than_one_request_keeps_its_order(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.operations.LONGEST_BATCH", 3)
    wanted = [{"command": f"c{number}", "container_group_id": "g1"} for number in range(8)]
    jobs = api.submit_many(wanted, key="eight")
    assert [job.command for job in jobs] == [one["command"] for one in wanted]
    assert [job.id for job in api.submit_many(wanted, key="eight")] == [job.id for job in jobs]


def test_a_list_goes_on_over_all_pages(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [api.submit(f"c{number}").id for number in range(5)]
    real = kelpie.operations.pairs  # type: ignore[attr-defined]
    monkeypatch.setattr("kelpie.operations.pairs", lambda filters: [*real(filters), ("page_size", "2")])
    assert [job.id for job in api.jobs()] == ids[::-1]
    assert [job.id for job in api.jobs().first(3)] == ids[:1:-1]


def test_the_result_of_a_job_is_its_end(api: Client, client: Http) -> None:
    job = api.submit("true")
    client.report(client.claim() or {}, "completed")
    assert job.result(timeout=10).status == "completed"


def test_a_failed_job_raises_what_its_last_attempt_said(api: Client, client: Http) -> None:
    job = api.submit("false", max_failures=1)
    held = client.claim() or {}
    client.report(held, "failed", attempt=1, exit_code=3, reason="exit_code", output="no such file: x.csv")
    with pytest.raises(kelpie.JobFailed, match="failed after 1 failure") as raised:
        job.result(timeout=10)
    assert (raised.value.exit_code, raised.value.reason) == (3, "exit_code")
    assert raised.value.tail == "no such file: x.csv"
    assert raised.value.job.id == job.id


def test_a_canceled_job_raises_that(api: Client) -> None:
    job = api.submit("true")
    job.cancel()
    with pytest.raises(kelpie.JobCanceled):
        job.result(timeout=10)


def test_what_does_not_end_in_time_times_out_and_goes_on(api: Client) -> None:
    job = api.submit("true")
    with pytest.raises(kelpie.TimedOut, match="they run on"):
        job.result(timeout=0.01)
    assert job.refresh().status == "pending"


def test_jobs_are_handed_out_as_they_end(api: Client) -> None:
    jobs = [api.submit(f"c{number}") for number in range(3)]
    for job in (jobs[2], jobs[0], jobs[1]):
        job.cancel()
    assert {job.id for job in kelpie.as_completed(jobs, timeout=10)} == {job.id for job in jobs}
    assert list(kelpie.as_completed([])) == []


def test_the_history_of_a_job_is_read(api: Client, client: Http) -> None:
    job = api.submit("true")
    client.report(client.claim() or {}, "completed")
    (attempt,) = job.attempts()
    assert (attempt.number, attempt.machine_id, attempt.outcome) == (1, "m1", "completed")
    assert attempt.claimed is not None and attempt.claimed.tzinfo is not None
    # What is noted is that this worker sends no output, for which the client asks.
    assert [event.kind for event in job.events()] == ["submitted", "claimed", "noted", "completed"]


def test_errors_are_classes_with_the_servers_sentence(api: Client) -> None:
    with pytest.raises(kelpie.NotFound, match="There is no job"):
        api.job("00000000-0000-0000-0000-000000000000")
    with pytest.raises(kelpie.Refused, match="max_failures") as raised:
        api.submit("true", max_failures=0)
    assert raised.value.status == 400 and "max_failures" in raised.value.errors
    with pytest.raises(kelpie.DefinitionError, match="s3://bucket/prefix"):
        api.submit("true", checkpoint={"c": "bucket/x"})
    with pytest.raises(kelpie.DefinitionError, match="needs a filter"):
        api.jobs().cancel()
    with pytest.raises(kelpie.DefinitionError, match="ids is empty"):
        api.jobs(ids=[], group="g")  # a list that a script has computed, and not all jobs of the group
    stranger = Client(
        settings=kelpie.client.Settings("http://kelpie.test", {"X-Kelpie-Key": "wrong"}),  # type: ignore[attr-defined]
        transport=api.http._transport,
    )
    with pytest.raises(kelpie.NotAllowed):
        stranger.jobs().first(1)


def test_a_notebook_shows_a_job_with_everything_escaped(api: Client) -> None:
    job = api.submit("true")
    shown = kelpie.client.job_html(  # type: ignore[attr-defined]
        kelpie.Job.from_json(
            {"id": job.id, "name": "<script>alert(1)</script>", "status": "running", "progress": 0.5}, client=api
        )
    )
    assert "<script>" not in shown and "&lt;script&gt;" in shown and 'value="0.5000"' in shown


def test_what_the_coordinator_does_not_know_is_not_sent(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    api.submit("true")
    assert api.server.extensions
    api.server.extensions = frozenset({"attempt"})
    monkeypatch.setattr(api.server, "learn", lambda reply: None)
    for send in (
        lambda: api.submit("true", secrets=["TOKEN"]),
        lambda: api.jobs(phase="running").first(1),
        lambda: api.sweep(["run", "{x}"], [{"x": 1}], name="s"),
    ):
        with pytest.raises(kelpie.NotSupported, match="Nothing was sent"):
            send()


def names_of(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    for name in ("Client", "Job", "Jobs", "Sweep"):
        one, other = getattr(kelpie, name), getattr(kelpie, f"Async{name}")
        assert names_of(one) == names_of(other)
        for method in names_of(one):
            if inspect.isfunction(getattr(one, method)):
                parameters = [list(inspect.signature(getattr(kind, method)).parameters) for kind in (one, other)]
                assert parameters[0] == parameters[1], f"{name}.{method}"


def test_a_sweep_with_a_webhook_of_its_own_is_closed_and_run_again_makes_no_job_twice(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(seeds: int = 3) -> kelpie.Sweep:
        return api.sweep(
            ["run", "{seed}"],
            kelpie.grid(seed=range(seeds)),
            name="told",
            labels={"team": "nlp"},
            sweep_webhook="https://hooks.example.com/ended",
        )

    first = made()
    assert (first.closed, first.total, first.extra["webhook"]) == (True, 3, "https://hooks.example.com/ended")
    assert api.jobs(labels={"team": "nlp"}).counts()["count"] == 3, "its labels are those of its jobs"
    assert made().id == first.id
    monkeypatch.setattr("kelpie.operations.KEYS_LAST", timedelta(seconds=-1))  # the keys of its batches are gone
    assert (made().id, made().total) == (first.id, 3)


def test_the_async_client_does_the_same(new_async_api: Callable[[], AsyncClient], client: Http) -> None:
    async def use() -> Any:
        async with new_async_api() as api:
            first, second = [await api.submit(["true"]), await api.submit(["true"])]
            await second.cancel()
            client.report(client.claim() or {}, "completed")
            done = await first.result(timeout=10)
            with pytest.raises(kelpie.JobCanceled):
                await second.result(timeout=10)
            listed = [job.id async for job in api.jobs()]
            sweep = await api.sweep(["run", "{n}"], kelpie.grid(n=[1, 2]), name="pair")
            await sweep.jobs().cancel(expect=2)
            ended = [job.status async for job in api.as_completed(sweep, timeout=10)]
            assert [line async for line in done.logs()] == []
            outcomes = [one.outcome for one in await first.attempts()]
            return done.status, listed == [second.id, first.id], outcomes, ended, (await sweep.refresh()).done

    assert asyncio.run(use()) == ("completed", True, ["completed"], ["canceled"] * 2, 2)
