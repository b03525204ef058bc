"""What Salad's metadata service is told of the instance that the worker runs on: what its deletion would cost, and
that it is given up.

A thread of its own makes the calls, so that a metadata service that hangs delays no other work; a worker that is
to leave waits for seconds at most.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext

from kelpie_worker import logs
from kelpie_worker.config import Config
from kelpie_worker.messages import Departed, Departure, LeaveInstance, Message, SetDeletionCost
from kelpie_worker.salad.imds import Imds, ImdsUnavailable
from kelpie_worker.salad.peers import Peers, PeerState
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry

_TRIES = 2  # of a reallocation
_BACKOFF_TO_LEAVE = Backoff(0.5, 0.5)
_LOOK_AGAIN = 20.0  # seconds between looks for peers that have ended, and so publish no lower cost
_BACKOFF = Backoff(1.0, 60.0)  # after a deletion cost that could not be set


class Instance:
    """Carries out SetDeletionCost and LeaveInstance; `tell` takes Departed, from its thread."""

    def __init__(self, config: Config, tell: Callable[[Message], None]) -> None:
        self._imds = Imds(config.imds_url) if config.imds_url else None
        self._tell = tell
        self._peers = _peers_in(config.runtime_directory)
        self._changed = threading.Condition()
        self._own = PeerState()
        self._leave: LeaveInstance | None = None
        self._published: int | None = None  # by us, and by no peer since
        self._had_peers = False
        self._failures = 0
        if self._imds is None:
            logs.warn(
                "imds_skipped", detail="neither SALAD_MACHINE_ID nor SALAD_IMDS_URL is set: no machine of Salad's"
            )

    def start(self) -> None:
        threading.Thread(target=self._live, daemon=True).start()

    def carry_out(self, command: SetDeletionCost | LeaveInstance) -> None:
        with self._changed:
            match command:
                case SetDeletionCost():
                    self._own = PeerState(command.cost, command.holds_job)
                    self._tell_peers()
                case LeaveInstance():
                    self._leave = command
            self._changed.notify_all()

    def end(self) -> None:
        """Remove this worker from the peers' directory, so that they do not count it any more."""
        if self._peers:
            self._peers.leave()

    def _live(self) -> None:
        seen: PeerState | None = None
        while True:
            with self._changed:
                if self._leave is None and self._own == seen:
                    self._changed.wait(self._pause())
                seen, leave, self._leave = self._own, self._leave, None
            if leave:
                self._tell(Departed(gone=self._depart(leave)))
            elif self._imds:
                self._publish(self._imds, seen)

    def _tell_peers(self) -> None:
        """Publish this worker's state at once: while the thread's call hangs, no peer may give up the machine."""
        try:
            if self._peers:
                self._peers.tell(self._own)
        except OSError as error:
            logs.warn("neighbours_not_told", detail=str(error))

    def _pause(self) -> float | None:
        if self._imds is None:
            return None
        return _BACKOFF.after(self._failures) if self._failures else _LOOK_AGAIN

    # --- deletion cost ------------------------------------------------------------------------------

    def _publish(self, imds: Imds, own: PeerState) -> None:
        """Set the highest cost of all workers here: deleting the machine ends all of them."""
        try:
            with self._peers.turn() if self._peers else nullcontext():
                others = self._peers.others() if self._peers else []
                if others or self._had_peers:
                    self._published = None
                self._had_peers = bool(others)
                self._put(imds, max([own.cost, *(other.cost for other in others)]))
        except OSError as error:  # the directory was removed
            logs.warn("neighbours_unknown", detail=str(error))
            self._peers = None

    def _put(self, imds: Imds, cost: int) -> None:
        if cost == self._published:
            return
        try:
            imds.set_deletion_cost(cost)
        except ImdsUnavailable as error:
            self._failures, self._published = self._failures + 1, None
            if self._failures == 1:
                logs.warn("deletion_cost_not_set", detail=str(error))
            return
        self._failures, self._published = 0, cost
        logs.debug("deletion_cost_set", cost=cost)

    # --- leaving ------------------------------------------------------------------------------------

    def _depart(self, leave: LeaveInstance) -> bool:
        """Whether the worker is to end: the instance is given up, or kept because another worker holds a job."""
        if self._imds is None:
            logs.warn("instance_not_left", reason=leave.reason, detail="there is no metadata service to ask")
            return False
        if self._peers and any(other.holds_job for other in self._peers.others()):
            logs.info("instance_kept", reason=leave.reason, detail="another worker here holds a job")
            return True
        return self._ask(self._imds, leave)

    def _ask(self, imds: Imds, leave: LeaveInstance) -> bool:
        def once() -> None:
            if leave.departure is Departure.RECREATE:
                imds.recreate()
            else:
                imds.reallocate(leave.reason)

        def tell(error: ImdsUnavailable) -> None:
            logs.warn("instance_not_left", departure=leave.departure, reason=leave.reason, detail=str(error))

        try:
            retry(
                once,
                on=ImdsUnavailable,
                backoff=_BACKOFF_TO_LEAVE,
                until=lambda failure: failure.error.refused or failure.number >= _TRIES,
                on_failure=lambda failure: tell(failure.error),
            )
        except ImdsUnavailable as error:
            tell(error)
            return False
        logs.info("instance_left", departure=leave.departure, reason=leave.reason)
        return True


def _peers_in(directory: str) -> Peers | None:
    try:
        return Peers(directory)
    except OSError as error:
        logs.warn("neighbours_unknown", directory=directory, detail=f"set KELPIE_RUNTIME_DIR elsewhere: {error}")
        return None
