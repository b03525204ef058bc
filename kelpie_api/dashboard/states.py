"""How phases of jobs and ends of attempts look: each has a colour and a sign, beside its word."""

from __future__ import annotations

from kelpie_api.queue.states import Outcome, Phase

FINAL = (Phase.COMPLETED, Phase.FAILED, Phase.CANCELED)
# The colour, a class of the style sheet, and the sign, a macro of templates/parts.html.
PHASES: dict[Phase, tuple[str, str]] = {
    Phase.STALLED: ("bad", "alarm"),
    Phase.RUNNING: ("live", "play"),
    Phase.DOWNLOADING: ("live", "down"),
    Phase.UPLOADING: ("live", "up"),
    Phase.WAITING: ("warn", "clock"),
    Phase.PENDING: ("wait", "clock"),
    Phase.PARKED: ("off", "pause"),
    Phase.COMPLETED: ("good", "tick"),
    Phase.FAILED: ("bad", "cross"),
    Phase.CANCELED: ("off", "stop"),
}
OUTCOMES: dict[Outcome, tuple[str, str]] = {
    Outcome.COMPLETED: ("good", "tick"),
    Outcome.FAILED: ("bad", "cross"),
    Outcome.INTERRUPTED: ("warn", "bolt"),
    Outcome.RELEASED: ("wait", "back"),
    Outcome.CANCELED: ("off", "stop"),
}
LIVE = ("live", "play")  # an attempt that goes on
UNKNOWN = ("wait", "clock")  # of a later release, beside which this one runs for a while


def look_of_phase(phase: str) -> tuple[str, str]:
    return PHASES[Phase(phase)] if phase in [*Phase] else UNKNOWN


def look_of_outcome(outcome: str | None) -> tuple[str, str]:
    if outcome is None:
        return LIVE
    return OUTCOMES[Outcome(outcome)] if outcome in [*Outcome] else UNKNOWN
