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
from dataclasses import dataclass, field

from kelpie_worker import logs
from kelpie_worker.job import Job, ObjectKey, StoredObject
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import Changed, StorageRefused, StorageUnreachable
from kelpie_worker.s3.objects import UNKNOWN, Absent, ObjectState, Stored, Target, Unknown, Version
from kelpie_worker.system.linux import boottime

_LOOKS_AT_ONCE = 8
_MOST_TRIES = 5


@dataclass(slots=True)
class _Key:
    """What an attempt knows of one key."""

    there: ObjectState | None = None  # what may be replaced; None: nothing was seen there
    left: ObjectState | None = None  # what this attempt left there, Absent where it deleted it; None: nothing yet
    turn: threading.Lock = field(default_factory=threading.Lock)  # held by the thread that changes the object

    def there_or(self, default: ObjectState) -> ObjectState:
        return default if self.there is None else self.there


class Fence:
    """What one attempt knows of the objects that its checkpoints and outputs are written to."""

    def __init__(self, job: Job, storage: Storage, lease: Lease, doubt: Callable[[], None]) -> None:
        """`doubt` asks for a heartbeat at once; its answer reaches the lease."""
        self._job = job
        self._storage = storage
        self._lease = lease
        self._doubt = doubt
        self._keys: dict[ObjectKey, _Key] = {}
        self._learning = threading.Lock()

    def know(self, objects: Iterable[StoredObject]) -> None:
        """Record the objects that were there when the attempt began."""
        for stored in objects:
            if stored.etag:
                self._key(stored.place).there = Version(stored.etag)

    def is_overwritten(self, place: ObjectKey, state: ObjectState) -> bool:
        """Whether this attempt has since written another object there than `state`, or deleted it."""
        key = self._keys.get(place)
        return key is not None and key.left is not None and key.left != state

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
        key = self._key(target.place)
        with key.turn:
            stored = self._write(target, key, store, others)
            key.left = Version(stored.etag)
            return stored

    def _write(
        self, target: Target, key: _Key, store: Callable[[ObjectState], Stored], others: Iterable[Target]
    ) -> Stored:
        misled = 0
        for _ in range(_MOST_TRIES):
            self.hold()
            over = key.there_or(Absent())
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
                    key.there = None
                raise
            if isinstance(over, Unknown):
                self._storage.go_without_conditions(
                    target.bucket, "it refuses conditions, or to say what is there"
                )
            key.there = Version(stored.etag)
            return stored
        raise StorageUnreachable(f"{target.bucket}/{target.key} is being changed by something else all the time")

    def delete(self, place: ObjectKey, is_needed: Callable[[], bool]) -> bool:
        """Delete what is known to be there; another object stays. Raises the storage's errors, Cancelled.

        `is_needed` is asked while no other thread of this attempt can write there; if it is, the object stays, and
        the answer is False.
        """
        key = self._key(place)
        with key.turn:
            self.hold()
            if is_needed():
                return False
            key.left = Absent()
            try:
                self._storage.delete(*place, key.there_or(UNKNOWN))
            except Changed as changed:
                logs.warn("delete_met_another_version", self._job, key=place[1], detail=str(changed))
            key.there = None
            return True

    def _key(self, place: ObjectKey) -> _Key:
        return self._keys.setdefault(place, _Key())

    def _learn(self, target: Target, over: ObjectState, found: ObjectState, others: Iterable[Target]) -> None:
        """Permit the replacement of what is there now, once a heartbeat sent after it was seen is accepted.

        Then no newer attempt exists that could have written it. The objects of `others` are looked at, too. Raises
        Cancelled.
        """
        with self._learning:
            if self._key(target.place).there_or(Absent()) != over:
                return  # another thread has looked at it meanwhile
            before = {other.place: self._key(other.place).there_or(UNKNOWN) for other in others}
            with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as pool:
                states = list(pool.map(lambda place: self._storage.state_of(*place), before))
            seen_at = boottime()
            self._doubt()
            self._lease.wait_for_heartbeat(seen_at, self._job.heartbeat_interval)
            for (place, known), state in zip(before.items(), states, strict=True):
                key = self._key(place)
                written_meanwhile = key.there_or(UNKNOWN) != known
                if not isinstance(state, Unknown) and not written_meanwhile:
                    key.there = state
            self._key(target.place).there = found
