"""Everything the worker knows of one job in hand, in one record."""

from dataclasses import dataclass, field

from kelpie_worker.messages import Command, Transferring
from kelpie_worker.pipeline import JobState
from kelpie_worker.stall import Stall


@dataclass(frozen=True)
class Times:
    """Times of a job on this worker, in RFC 3339."""

    start: str
    exit_time: str | None = None
    end: str | None = None


@dataclass
class JobInHand:
    """One job from its claim until it is wiped.

    The first three facts are in the state file. The others end with the process; the supervisor writes them, or
    the module that the comment names.
    """

    state: JobState
    times: Times
    transfers: Transferring | None = None  # the local paths being transferred; None if there are none
    is_proven: bool = True  # False for a job of an earlier run of the worker until a heartbeat is accepted
    renewed_until: float | None = None  # CLOCK_BOOTTIME until which the newest renewal makes its lease safe
    told: dict[type[Command], Command] = field(default_factory=dict)  # what heartbeats carry, by kind
    is_begun: bool = False  # whether the current runner was sent its Run
    heartbeats: int = 0  # accepted ones; instance_policy
    failure_counted: bool = False  # among the failures on this machine; instance_policy
    silence: float = 0.0  # seconds without news of its lease; watchdog
    is_resumed: bool = False  # by this run of the worker, from the state file
    deadline: float | None = None  # CLOCK_BOOTTIME of the end of its time; steering
    is_followed: bool = False  # a reader follows its output; steering
    stall: Stall = field(default_factory=Stall)  # whether its command has stalled; steering
    asked_to_save: float | None = None  # CLOCK_BOOTTIME of the stop that begins with a checkpoint signal
    is_crossed: bool = False  # a heartbeat was told that the job is over while its report was under way
