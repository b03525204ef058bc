"""Which message becomes which line of the log."""

from dataclasses import fields
from typing import Any

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.messages import (
    Claimed,
    Command,
    Download,
    Downloaded,
    Ending,
    Exited,
    LeaseLost,
    Message,
    Refused,
    Reported,
    Staged,
    Started,
    StopWished,
    Troubled,
    Upload,
    Uploaded,
    Verdict,
    Wiped,
)

_EVENTS: dict[type[Message], str] = {
    Downloaded: "downloaded",
    Started: "command_started",
    StopWished: "stop_wished",
    Exited: "command_exited",
    Staged: "outputs_set_aside",
    Uploaded: "uploaded",
    Wiped: "wiped",
    LeaseLost: "lease_lost",
    Refused: "refused",
    Troubled: "trouble",
}


def tell(message: Message, job: Job, outcome: Ending | None = None) -> None:
    """Log a message, if it is one of those that have a line in the log."""
    if isinstance(message, Claimed):
        logs.info("claimed", job, claim_id=message.claim_id)
    elif isinstance(message, Reported):
        _tell_report(message, job, outcome)
    elif event := _EVENTS.get(type(message)):
        logs.info(event, job, **_facts(message))


def tell_command(command: Command) -> None:
    if isinstance(command, Download):
        logs.info("downloading", command.job)
    elif isinstance(command, Upload):
        logs.info("uploading", command.job)


def _tell_report(message: Reported, job: Job, outcome: Ending | None) -> None:
    if outcome is None:
        return
    event = "released" if outcome.verdict is Verdict.RELEASED else "reported"
    logs.info(
        event,
        job,
        outcome=outcome.verdict,
        reason=outcome.reason,
        exit_code=outcome.exit_code,
        accepted=message.accepted,
    )


def _facts(message: Message) -> dict[str, Any]:
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {
        name: value
        for name, value in values.items()
        if name not in ("claim_id", "aside", "output", "found") and value is not None
    }
