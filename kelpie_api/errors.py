"""The errors that the coordinator answers: a status, a short title, and a sentence that says what to do."""

from __future__ import annotations

import math
from typing import Any


class KelpieError(Exception):
    """The base of all errors that are answered as `{"error", "message"}` (docs/design/protocol.md, Errors)."""

    status = 500
    title = "Internal Server Error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def body(self) -> dict[str, Any]:
        return {"error": self.title, "message": self.message}

    def headers(self) -> dict[str, str]:
        return {}


class InvalidRequest(KelpieError):
    """`errors` maps the path of a field (`sync.before.0.bucket`) to sentences; `index` is its place in a batch."""

    status = 400
    title = "Bad Request"

    def __init__(self, message: str, errors: dict[str, list[str]] | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.errors = errors or {}
        self.index = index

    def body(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"errors": self.errors}
        if self.index is not None:
            extra["index"] = self.index
        return super().body() | extra


class DefaultsDoNotFit(InvalidRequest):
    """The secrets that a group's defaults name are not there, or are variables of the job's own environment."""


class MissingCredentials(KelpieError):
    status = 401
    title = "Unauthorized"


class NotSignedIn(KelpieError):
    """A page is asked for without a session, or with one that has ended."""

    status = 401
    title = "Not Signed In"

    def __init__(self) -> None:
        super().__init__("There is no session, or it has ended; sign in again.")


class Forbidden(KelpieError):
    status = 403
    title = "Forbidden"


class UserRemoved(Forbidden):
    """The user of a remembered caller was removed a moment ago, perhaps by another process."""

    def __init__(self) -> None:
        super().__init__(
            "The user of this key was removed a moment ago; send the request again, or ask the administrator"
            " for a new key."
        )


class NotFound(KelpieError):
    status = 404
    title = "Not Found"


class JobNotFound(NotFound):
    title = "Job Not Found"

    def __init__(self, job_id: object) -> None:
        super().__init__(f"There is no job {job_id}; check the id and the key you call with.")


class RuleNotFound(NotFound):
    title = "Scaling Rule Not Found"

    def __init__(self, container_group_id: object) -> None:
        super().__init__(
            f"The container group {container_group_id} has no scaling rule;"
            " check the id and the key you call with."
        )


class Conflict(KelpieError):
    status = 409
    title = "Conflict"


class NotTheHolder(Conflict):
    """A report from a worker that does not hold the job's lease (docs/design/protocol.md, Attempt and fence)."""

    title = "Not The Holder"


class ClaimIdTaken(Conflict):
    title = "Claim Id Taken"

    def __init__(self) -> None:
        super().__init__("Another machine claims with this claim_id; make a new UUID for each claim.")


class SecretNamed(Conflict):
    """A secret is removed while jobs name it, or jobs name it while it is removed."""

    title = "Secret Named"

    def __init__(self, message: str = "") -> None:
        super().__init__(
            message
            or "A secret that this job names was removed at this moment; set it, then submit the job again."
        )


class SubmittedJobsGone(Conflict):
    title = "Jobs Removed"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key created jobs that were removed since; submit them again with a new key."
        )


class IdempotencyKeyReused(KelpieError):
    status = 422
    title = "Idempotency-Key Reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was sent with another body before; use a new key for new jobs.")


class RuleExists(Conflict):
    title = "Scaling Rule Exists"

    def __init__(self, container_group_id: object, is_own: bool) -> None:
        super().__init__(
            f"The container group {container_group_id} has a scaling rule already; change that one."
            if is_own
            else f"Another user's rule serves the container group {container_group_id}, or yours of another"
            " project; a group has one rule."
        )


class Unavailable(KelpieError):
    """Answered while the database cannot be reached or its schema is not current, or Salad cannot be asked."""

    status = 503
    title = "Service Unavailable"

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = max(2, math.ceil(retry_after))  # seconds

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class TooManyRequests(Unavailable):
    """One caller exceeds its rate limit."""

    status = 429
    title = "Too Many Requests"


class PieceTooLarge(KelpieError):
    status = 413
    title = "Piece Too Large"

    def __init__(self, most: int) -> None:
        super().__init__(f"A piece of output has at most {most} bytes; send the rest in further pieces.")


class TooManyOpenJobs(TooManyRequests):
    """A tenant would have more open jobs, or larger ones, than it may."""

    title = "Too Many Open Jobs"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=60.0)


class RolledBack(Unavailable):
    """Postgres rolled the statement back because of a concurrent one (a deadlock, a serialization failure)."""


class ConnectionLost(Unavailable):
    """The connection broke during a statement: it is unknown whether it was carried out."""


class WrongSecretKey(KelpieError):
    """This process has another KELPIE_SECRET_KEY than the database was used with."""

    status = 503
    title = "Service Unavailable"

    def __init__(self, hint: str = "") -> None:
        super().__init__(
            "KELPIE_SECRET_KEY is not the one that this database was used with; set that one, or adopt the new one"
            f" with scripts/admin change-secret-key.{hint}"
        )

    def headers(self) -> dict[str, str]:
        return {"Retry-After": "60"}


class SecretsWouldBeLost(KelpieError):
    """A change of the key that would leave behind what none of the given keys opens."""

    def __init__(
        self, secrets: int, keys: int, job_secrets: int = 0, environments: int = 0, hint: str = ""
    ) -> None:
        super().__init__(
            f"KELPIE_SECRET_KEY cannot open {secrets} of the signing secrets and {keys} of the keys of webhooks"
            f" that wait, nor {job_secrets} of the secrets and {environments} of the environments of jobs.{hint}"
            " Nothing is lost if it is NEW,OLD, with the key that sealed them after the comma. To do without them,"
            " stop the API and the sender of webhooks, then say --drop-unreadable: such webhooks are sent without"
            " a key, such users get a new signing secret, and such jobs wait until the key is back."
        )


class NoAnswer(Exception):
    """A request to another service had no usable answer: a time-out, a broken connection, 429, 5xx, HTML for JSON.

    For a webhook's receiver the sentence is shown to the job's owner.
    """

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after  # seconds


class ConfigError(Exception):
    """Settings are missing or wrong, and the program does not start; a sentence for each names its variable."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


class SchemaError(Exception):
    """The database's schema does not fit this release."""
