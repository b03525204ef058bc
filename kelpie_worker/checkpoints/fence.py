"""Which objects an attempt may replace: those it knows, and never those of a newer attempt
(docs/design/guarantees.md, I12).

A worker that has lost its lease may not know it: its machine slept between the look at the lease and the request,
or the request was long on its way. So the request itself names the ETag of the object that it replaces, and
storage refuses it if another one is there. That is no proof of a newer attempt, for users change objects too: a
heartbeat that is sent after the other object was seen, and accepted, proves that there is none.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from kelpie_worker import logs
from kelpie_worker.job import Job, ObjectKey, StoredObject
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import Changed, StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import UNKNOWN, Absent, ObjectState, Stored, Target, Unknown, Version
from kelpie_worker.system.linux import boottime

_LOOKS_AT_ONCE = 8
_MOST_TRIES = 5


class Fence:
    """What one attempt knows of the objects that its checkpoints and outputs are written to."""

    def __init__(self, job: Job, storage: Storage, lease: Lease, doubt: Callable[[], None]) -> None:
        """`doubt` asks for a heartbeat at once; its answer reaches the lease."""
        self._job = job
        self._storage = storage
        self._lease = lease
        self._doubt = doubt
        self._known: dict[ObjectKey, ObjectState] = {}  # what may be replaced; a key that is not in it is Absent
        self._learning = threading.Lock()
        self._written: dict[ObjectKey, ObjectState] = {}  # what this attempt left there; Absent: it deleted it
        self._turns: dict[ObjectKey, threading.Lock] = {}

    def know(self, objects: Iterable[StoredObject]) -> None:
        """Record the objects that were there when the attempt began."""
        self._known |= {stored.place: Version(stored.etag) for stored in objects if stored.etag}

    def is_overwritten(self, place: ObjectKey, state: ObjectState) -> bool:
        """Whether this attempt has since written another object there than `state`, or deleted it."""
        return self._written.get(place, state) != state

    def hold(self) -> None:
        """Wait until the lease is safe, before a change of the bucket. Raises Cancelled."""
        if self._lease.wait_until_safe():
            logs.info("commit_was_held", self._job)

    def write(
        self, target: Target, store: Callable[[ObjectState], Stored], others: Iterable[Target] = ()
    ) -> Stored:
        """Have `store` replace what is known to be there. Raises the storage's errors, Cancelled.

        `others` are to be written soon: where one object is another than known, those may be too.
        """
        with self._turn(target.place):
            stored = self._write(target, store, others)
            self._written[target.place] = Version(stored.etag)
            return stored

    def _write(self, target: Target, store: Callable[[ObjectState], Stored], others: Iterable[Target]) -> Stored:
        misled = 0
        for _ in range(_MOST_TRIES):
            self.hold()
            over = self._known.get(target.place, Absent())
            try:
                stored = store(over)
            except Changed as changed:
                logs.warn("commit_met_another_version", self._job, key=target.key, detail=str(changed))
                misled += changed.found == over
                # If storage does not say what is there, or refuses the write alone, the other keys may be
                # unchanged.
                looked_at = () if isinstance(changed.found, Unknown) else others
                self._learn(target, over, changed.found if misled < 2 else UNKNOWN, looked_at)
                continue
            except (StorageRefused, StorageUnreachable):
                if isinstance(over, Unknown):  # there was no condition; the next try is to have one
                    self._known.pop(target.place, None)
                raise
            if isinstance(over, Unknown):
                self._storage.go_without_conditions(
                    target.bucket, "it refuses conditions, or to say what is there"
                )
            self._known[target.place] = Version(stored.etag)
            return stored
        raise StorageUnreachable(f"{target.bucket}/{target.key} is being changed by something else all the time")

    def delete(self, place: ObjectKey, is_needed: Callable[[], bool]) -> bool:
        """Delete what is known to be there; another object stays. Raises the storage's errors, Cancelled.

        `is_needed` is asked while no other thread of this attempt can write there; if it is, the object stays, and
        the answer is False.
        """
        with self._turn(place):
            self.hold()
            if is_needed():
                return False
            self._written[place] = Absent()
            try:
                self._storage.delete(*place, self._known.get(place, UNKNOWN))
            except Changed as changed:
                logs.warn("delete_met_another_version", self._job, key=place[1], detail=str(changed))
            self._known.pop(place, None)
            return True

    def _turn(self, place: ObjectKey) -> threading.Lock:
        return self._turns.setdefault(place, threading.Lock())

    def _learn(self, target: Target, over: ObjectState, found: ObjectState, others: Iterable[Target]) -> None:
        """Permit the replacement of what is there now, once a heartbeat sent after it was seen is accepted.

        Then no newer attempt exists that could have written it. The objects of `others` are looked at, too. Raises
        Cancelled.
        """
        with self._learning:
            if self._known.get(target.place, Absent()) != over:
                return  # another thread has looked at it meanwhile
            before = {other.place: self._known.get(other.place, UNKNOWN) for other in others}
            with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
                states = list(pool.map(lambda place: self._storage.state_of(*place), before))
            seen_at = boottime()
            self._doubt()
            self._lease.wait_for_heartbeat(seen_at, self._job.heartbeat_interval)
            for (place, known), state in zip(before.items(), states, strict=True):
                written_meanwhile = self._known.get(place, UNKNOWN) != known
                if not isinstance(state, Unknown) and not written_meanwhile:
                    self._known[place] = state
            self._known[target.place] = found
