"""Writing over what is known only: storage itself refuses where another object is there, if it can."""

from collections.abc import Callable

from kelpie_worker import logs
from kelpie_worker.s3.errors import Changed, Misconfigured, NoBucket, NotThere, NoUpload, StorageRefused
from kelpie_worker.s3.objects import NOTHING, Stored, Target, stored_by
from kelpie_worker.s3.retrying import Calls

_SMALL_TRIAL = 64 * 1024  # bytes that may be sent twice to find something out
_NOBODYS_ETAG = "0" * 32
Condition = dict[str, str]  # of a request, by boto3's names


class Conditions:
    """Whether they are heeded is found out for each bucket, once."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._heeded = calls.shared.heeds_conditions

    def are_heeded(self, bucket: str) -> bool:
        """False where it is not known."""
        return self._heeded.get(bucket, False)

    def store_over(
        self,
        over: str | None,
        target: Target,
        content: tuple[str, int],
        store: Callable[[Condition], Stored],
    ) -> Stored:
        """Store where there is the object whose ETag is `over`: NOTHING is none, None whatever is there.

        Storage that knows no conditions, or does not permit them, is used without. Raises Changed.
        """
        if over is None or self._heeded.get(target.bucket) is False:
            return store({})
        try:
            return store(_condition(over))
        except (NoUpload, NoBucket, Misconfigured):
            raise
        except (Changed, NotThere) as error:
            return self._perhaps_ours(target, content, error)
        except StorageRefused as refusal:  # for the condition, or for good: who may write without one finds out
            raise Changed(str(refusal)) from refusal

    def _perhaps_ours(self, target: Target, content: tuple[str, int], error: Exception) -> Stored:
        """What is there instead may be what was sent: the answer to an earlier try was lost."""
        try:
            found = self._calls.head(target.bucket, target.key)
        except NotThere:
            raise Changed(str(error), NOTHING) from error
        except StorageRefused:
            raise Changed(str(error)) from error
        stored = stored_by(found)
        if (stored.etag, found.get("ContentLength")) == content:
            return stored
        raise Changed(str(error), stored.etag) from error

    def try_out(
        self,
        over: str | None,
        target: Target,
        content: tuple[str, int],
        store: Callable[[Condition], Stored],
    ) -> Stored | None:
        """Find out whether conditions are heeded, by one that cannot hold. If they are not, it is stored.

        Nothing is put into the bucket for it that is not to be there anyway.
        """
        if not over or content[1] > _SMALL_TRIAL or target.bucket in self._heeded:
            return None
        try:
            stored = store(_condition(_NOBODYS_ETAG))
        except Changed:
            self._heeded[target.bucket] = True
            return None
        except StorageRefused:
            return None
        self.go_without(target.bucket, "it stores what a condition forbids")
        return stored

    def go_without(self, bucket: str, detail: str) -> None:
        """It cannot be had here that a write names what it replaces; unless it was seen to work before."""
        if bucket not in self._heeded:
            self._heeded[bucket] = False
            logs.warn("conditional_writes_not_usable", bucket=bucket, detail=detail)


def _condition(over: str) -> Condition:
    return {"IfNoneMatch": "*"} if over == NOTHING else {"IfMatch": f'"{over}"'}


def as_headers(condition: Condition) -> dict[str, str]:
    names = {"IfMatch": "If-Match", "IfNoneMatch": "If-None-Match"}
    return {names[name]: value for name, value in condition.items()}
