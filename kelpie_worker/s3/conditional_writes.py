"""Writes that replace a known object only: storage itself refuses where another one is there, if it can."""

from collections.abc import Callable

from kelpie_worker import logs
from kelpie_worker.s3.errors import Changed, Misconfigured, NoBucket, NotThere, NoUpload, StorageRefused
from kelpie_worker.s3.objects import Absent, ObjectState, Stored, Target, Unknown, Version, stored_by
from kelpie_worker.s3.retrying import Calls

_SMALL_TRIAL = 64 * 1024  # bytes that may be sent twice to find something out
_NO_OBJECT_HAS_IT = Version("0" * 32)
Condition = dict[str, str]  # of a request, by boto3's names


class Conditions:
    """Sends writes with a condition, and finds out once for each bucket whether it heeds conditions."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._heeded = calls.shared.heeds_conditions

    def are_heeded(self, bucket: str) -> bool:
        """Whether the bucket was seen to refuse a write for its condition; False where that is not known yet."""
        return self._heeded.get(bucket, False)

    def store_over(
        self,
        over: ObjectState,
        target: Target,
        content: tuple[str, int],
        store: Callable[[Condition], Stored],
    ) -> Stored:
        """Call `store` with the condition that `over` is what it replaces; there is none over Unknown.

        `content` is the ETag and the size of what is stored. Storage that knows no conditions, or does not permit
        them, is used without. Raises Changed if something else than `over` is there.
        """
        condition = {} if self._heeded.get(target.bucket) is False else _condition(over)
        if not condition:
            return store({})
        try:
            return store(condition)
        except (NoUpload, NoBucket, Misconfigured):
            raise
        except (Changed, NotThere) as error:
            return self._perhaps_ours(target, content, error)
        except StorageRefused as refusal:  # for the condition, or for good: a write without one tells
            raise Changed(str(refusal)) from refusal

    def _perhaps_ours(self, target: Target, content: tuple[str, int], error: Exception) -> Stored:
        """What is there, if it is what was sent: the answer to an earlier try was lost. Else raises Changed."""
        try:
            found = self._calls.head(target.bucket, target.key)
        except NotThere:
            raise Changed(str(error), Absent()) from error
        except StorageRefused:
            raise Changed(str(error)) from error
        stored = stored_by(found)
        if (stored.etag, found.get("ContentLength")) == content:
            return stored
        raise Changed(str(error), Version(stored.etag)) from error

    def try_out(
        self,
        over: ObjectState,
        target: Target,
        content: tuple[str, int],
        store: Callable[[Condition], Stored],
    ) -> Stored | None:
        """Find out whether conditions are heeded, by a write with one that cannot hold.

        What was stored if they are not; None if they are, or it is no time to find out. Nothing is put into the
        bucket for it that is not to be there anyway.
        """
        if not isinstance(over, Version) or content[1] > _SMALL_TRIAL or target.bucket in self._heeded:
            return None
        try:
            stored = store(_condition(_NO_OBJECT_HAS_IT))
        except Changed:
            self._heeded[target.bucket] = True
            return None
        except StorageRefused:
            return None
        self.go_without(target.bucket, "it stores what a condition forbids")
        return stored

    def go_without(self, bucket: str, detail: str) -> None:
        """Send no conditions to this bucket any more, unless they were seen to work there before."""
        if bucket not in self._heeded:
            self._heeded[bucket] = False
            logs.warn("conditional_writes_not_usable", bucket=bucket, detail=detail)


def _condition(over: ObjectState) -> Condition:
    """The condition that `over` is what is replaced; empty if anything may be."""
    match over:
        case Absent():
            return {"IfNoneMatch": "*"}
        case Version(etag):
            return {"IfMatch": f'"{etag}"'}
        case Unknown():
            return {}


def as_headers(condition: Condition) -> dict[str, str]:
    names = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}
    return {names[name]: value for name, value in condition.items()}
