"""The routes of workers: the claim and the reports (docs/design/protocol.md, Claim)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from kelpie_api import metrics
from kelpie_api.auth.caller import Caller
from kelpie_api.db import Database, Row
from kelpie_api.errors import JobNotFound, KelpieError, NotTheHolder
from kelpie_api.queue import checkpoints, handouts, jobs
from kelpie_api.queue.long_poll import TooManyWaiters, Waiter
from kelpie_api.queue.states import Report, Status
from kelpie_api.schemas.fields import Failure, Message
from kelpie_api.schemas.jobs import ClaimedJob
from kelpie_api.schemas.work import (
    CheckpointKept,
    CheckpointReport,
    EndReport,
    FailureKept,
    HeartbeatAnswer,
    HeartbeatReport,
    ReleaseReport,
    ResumeReport,
    WorkQuery,
)
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.connection import client_is_gone
from kelpie_api.web.context import TEXT, caller, coordinator, db, here, identifier, this_request

blueprint = Blueprint("work", __name__, description="Work: what workers claim and report.")
Result = TypeVar("Result")
CROWDED = "5"  # Retry-After, in seconds, for a worker that found no room to wait


@blueprint.get("/work")
@blueprint.arguments(WorkQuery, location="query")
@blueprint.response(200, ClaimedJob(many=True), headers={"Cache-Control": TEXT, "Retry-After": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def get_work(query: dict[str, Any]) -> tuple[list[Row], int, dict[str, str]]:
    """Claim the next job: a list of one, or an empty list. With `wait` (seconds, 30 at most) the answer is held
    back until there is work; where too many requests wait already it is an empty list with `Retry-After`."""
    here().machine_id = query["machine_id"]
    admit_machine(query["machine_id"], query["container_group_id"])
    # A claim changes state: a cache that answered it would hand one job to two workers.
    headers = {"Cache-Control": "no-store"}
    try:
        job = claim(query)
    except TooManyWaiters:
        job = claim({**query, "wait": 0})
        headers |= {} if job else {"Retry-After": CROWDED}
    metrics.claim_answered(job is not None)
    return [checkpoints.with_newest(db(), job)] if job else [], 200, headers


def claim(query: dict[str, Any]) -> Row | None:
    """The claimed job, or None. Raises TooManyWaiters, ClaimIdTaken, Unavailable."""
    machine, group, claim_id = query["machine_id"], query["container_group_id"], query["claim_id"]
    speaks = query["speaks"]
    claimant, seal = caller(), coordinator().authenticator.seal

    def take() -> Row | None:
        return handouts.claim(db(), seal, claimant, machine, group, claim_id, client_is_gone, speaks)

    if not query["wait"]:
        return take()
    waiter = Waiter(claimant.tenant_id, machine, claimant.served_groups(group), claim_id, group)
    return coordinator().waiting.claim(waiter, take, query["wait"], client_is_gone)


def report_of(fields: dict[str, Any]) -> Report:
    stop = fields.pop("stop", None)
    report = Report(**fields, stop=stop and stop["why"])
    kept = here()
    kept.machine_id, kept.attempt = report.machine_id, report.attempt
    admit_machine(report.machine_id, report.container_group_id)
    return report


def admit_machine(machine_id: str, container_group_id: str) -> None:
    """Note that this machine was seen. Raises Forbidden if a token names another machine or group than its own."""
    claimant = caller()
    claimant.require_own(machine_id, container_group_id)
    coordinator().sightings.note(claimant.tenant_id, container_group_id, machine_id)


@blueprint.post("/jobs/<job_id>/heartbeat")
@blueprint.arguments(HeartbeatReport)
@blueprint.response(200, HeartbeatAnswer)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def heartbeat(fields: dict[str, Any], job_id: str) -> Row:
    """Renew the lease; with any status but `running` the worker must drop the job."""
    report = report_of(fields)
    if client_is_gone():  # a heartbeat with newer words may have been served before this one
        report = report.without_news()
    answer = jobs.heartbeat(db(), caller(), identifier(job_id, "job"), report)
    if answer["status"] != Status.RUNNING:
        metrics.report_refused("heartbeat")
    return answer


@blueprint.post("/jobs/<job_id>/completed")
@blueprint.arguments(EndReport)
@blueprint.response(200, Message)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def completed(fields: dict[str, Any], job_id: str) -> Row:
    """The command succeeded and every output is in the bucket."""
    report = report_of(fields)
    try:
        return carry_out(jobs.complete, job_id, report, "Completed reported")
    except JobNotFound as unknown:
        if report.attempt is not None:
            raise
        return ignored(unknown)  # the original's worker exits on a 404, too


@blueprint.post("/jobs/<job_id>/failed")
@blueprint.arguments(EndReport)
@blueprint.response(202, FailureKept)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def failed(fields: dict[str, Any], job_id: str) -> Row:
    """The attempt failed; if that is `counted` (see `retry` of the job), this machine never gets the job again."""
    config = coordinator().config
    counted: list[bool | None] = []

    def fail(db: Database, caller: Caller, job_id: UUID, report: Report) -> None:
        counted.append(jobs.fail(db, caller, job_id, report, config.max_bans, config.max_machines))

    answer = carry_out(fail, job_id, report_of(fields), "Failure reported")
    return answer | ({} if counted in ([], [None]) else {"counted": counted[0]})


@blueprint.post("/jobs/<job_id>/released")
@blueprint.arguments(ReleaseReport)
@blueprint.response(200, Message)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def released(fields: dict[str, Any], job_id: str) -> Row:
    """The worker gives the job back: no failure, no ban, handed out again at once."""
    return carry_out(jobs.release, job_id, report_of(fields), "Release reported")


@blueprint.put("/jobs/<job_id>/checkpoint")
@blueprint.arguments(CheckpointReport)
@blueprint.response(200, CheckpointKept)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def keep_checkpoint(fields: dict[str, Any], job_id: str) -> Row:
    """Report the manifest of a generation that is whole in the bucket; the next attempt gets the newest one. The
    `generation` of the answer is the newest of this attempt: a report with a lower one is not stored."""
    generation, files = fields.pop("generation"), fields.pop("files")
    return {"generation": fenced(checkpoints.keep, job_id, report_of(fields), generation, files)}


@blueprint.post("/jobs/<job_id>/resumed")
@blueprint.arguments(ResumeReport)
@blueprint.response(200, Message)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
def resumed(fields: dict[str, Any], job_id: str) -> Row:
    """Report whether the checkpoint that the attempt begins with is as the newest manifest says, or torn."""
    checkpoint, detail = fields.pop("checkpoint"), fields.pop("detail")
    fenced(checkpoints.tell_resumed, job_id, report_of(fields), checkpoint, detail)
    return {"message": "Resume reported"}


def fenced(tell: Callable[..., Result], job_id: str, report: Report, *told: Any) -> Result:
    """Carry out a report that only the holder may send; a refusal is counted. Raises NotTheHolder, JobNotFound."""
    try:
        return tell(db(), caller(), identifier(job_id, "job"), report, *told)
    except NotTheHolder:
        metrics.report_refused(str(this_request().endpoint).rpartition(".")[2])
        raise


def carry_out(
    transition: Callable[[Database, Caller, UUID, Report], None], job_id: str, report: Report, done: str
) -> Row:
    """Carry out a report. A refused one without an attempt gets the status of an accepted one, and `Ignored: ...`.

    The original's worker exits on a 409, and abandons its next job with it (docs/design/protocol.md, Attempt and
    fence).
    """
    try:
        fenced(transition, job_id, report)
    except NotTheHolder as refusal:
        if report.attempt is not None:
            raise
        return ignored(refusal)
    return {"message": done}


def ignored(refusal: KelpieError) -> Row:
    return {"message": f"Ignored: {refusal.message}"}
