"""Conditional writes: a write names the ETag of the object that it may replace, and storage refuses any other.

This is the fence against an attempt that lost its lease: it cannot overwrite the files of its successor. Some
storage does not know conditions, or ignores them; that is found out for each bucket, and anew after a while.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kelpie_worker import logs
from kelpie_worker.s3.errors import (
    Changed,
    Forbidden,
    Misconfigured,
    NoBucket,
    NotThere,
    NoUpload,
    StorageRefused,
)
from kelpie_worker.s3.objects import UNKNOWN, Absent, ObjectState, Stored, Target, Unknown, Version, stored_by
from kelpie_worker.s3.retrying import Calls

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

_SMALL_TRIAL = 64 * 1024  # bytes; a larger body is not sent twice for a trial
_NO_OBJECT_HAS_IT = Version("0" * 32)
Condition = dict[str, str]  # the condition of a request as boto3's parameters


class Conditions:
    """Writes with conditions, and without them in the buckets that do not enforce them."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._enforced = calls.shared.enforces_conditions

    def may_be_enforced(self, bucket: str) -> bool:
        """Whether it was not concluded that the bucket ignores conditions, or refuses them."""
        return self._enforced.of(bucket) is not False

    def store_over(
        self,
        over: ObjectState,
        target: Target,
        is_sent: Callable[["HeadObjectOutputTypeDef"], bool],
        store: Callable[[Condition], Stored],
    ) -> Stored:
        """Call `store` with the condition that `over` is what it replaces; returns what was stored.

        Over Unknown, and in a bucket that does not enforce conditions, the write has no condition. `is_sent` tells
        whether an object that is there is what was to be stored. Raises Changed if something else than `over` is
        there; with Unknown, if `over` is there and the write was refused, perhaps for its condition.
        """
        condition = {} if self._enforced.of(target.bucket) is False else _condition(over)
        if not condition:
            return store({})
        try:
            return store(condition)
        except (NoUpload, NoBucket, Misconfigured):
            raise
        except (Changed, NotThere) as error:
            return self._stored_by_earlier_try(target, is_sent, error)
        except StorageRefused as refusal:
            # Twice either the condition or the write itself was refused: one without a condition will show which,
            # but must not replace what the condition would have kept.
            found = self._state_of(target)
            if found != over:
                raise Changed(str(refusal), found) from refusal
            if isinstance(refusal, Forbidden) and self._enforced.of(target.bucket):
                raise  # conditions work here: it was the write that was not permitted
            raise Changed(str(refusal), UNKNOWN) from refusal

    def _state_of(self, target: Target) -> ObjectState:
        """What is there now; Unknown if storage refuses the look-up, as it does for a key that may only write."""
        try:
            return Version(stored_by(self._calls.head(target.bucket, target.key)).etag)
        except NotThere:
            return Absent()
        except Misconfigured:
            raise
        except StorageRefused:
            return UNKNOWN

    def _stored_by_earlier_try(
        self, target: Target, is_sent: Callable[["HeadObjectOutputTypeDef"], bool], error: Exception
    ) -> Stored:
        """What is there, if it is what was sent (the answer to an earlier try was lost). Else raises Changed."""
        try:
            found = self._calls.head(target.bucket, target.key)
        except NotThere:
            raise Changed(str(error), Absent()) from error
        except Misconfigured:
            raise
        except StorageRefused:
            raise Changed(str(error)) from error
        stored = stored_by(found)
        if is_sent(found):
            return stored
        raise Changed(str(error), Version(stored.etag)) from error

    def try_out(
        self,
        over: ObjectState,
        target: Target,
        size: int,
        store: Callable[[Condition], Stored],
    ) -> Stored | None:
        """Find out whether the bucket enforces conditions, with one that cannot hold.

        Returns what was stored if the bucket ignored the condition; None if it enforces conditions, or if this is
        no write to try it with. The body is the one that is to be stored anyway: a trial leaves no extra object.
        """
        known = self._enforced.of(target.bucket)
        if not isinstance(over, Version) or size > _SMALL_TRIAL or known is not None:
            return None
        try:
            stored = store(_condition(_NO_OBJECT_HAS_IT))
        except Changed:
            self._enforced.saw(target.bucket, True)
            return None
        except (NoBucket, Misconfigured):
            raise
        except StorageRefused:
            return None
        self.go_without(target.bucket, "it stores what a condition forbids")
        return stored

    def go_without(self, bucket: str, detail: str) -> None:
        """Note that this bucket took a write only without a condition, unless conditions were seen to work there.

        The second time that is concluded: for a while no conditions are sent to it.
        """
        if self._enforced.of(bucket) is not True and self._enforced.saw(bucket, False):
            logs.warn("conditional_writes_not_usable", bucket=bucket, detail=detail)


def _condition(over: ObjectState) -> Condition:
    """The condition that `over` is what is replaced; empty if anything may be replaced."""
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
