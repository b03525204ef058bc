"""The errors of storage: boto3's many exceptions mapped to a few classes, by what a caller can do about them."""

from collections.abc import Callable
from typing import Any, TypeVar

from kelpie_worker.s3.objects import UNKNOWN, ObjectState

_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict"}
_PASSING_CODES = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "OperationAborted",
}
Result = TypeVar("Result")


class StorageUnreachable(Exception):
    """Storage gave no answer, or an unusable one; a later try may succeed."""


class StorageRefused(Exception):
    """Storage refused the request: no permission, no credentials, no such bucket. Repeating it changes nothing."""


class NotTheListed(StorageUnreachable):
    """An answer has the ETag of the listed object and another size."""


class NotThere(StorageRefused):
    """The object (or multipart upload) does not exist."""


class NoUpload(NotThere):
    """The multipart upload does not exist (any more)."""


class NotBegun(StorageRefused):
    """An upload was refused before any byte of it was sent; the reason may concern this key only."""


class NotCopied(Exception):
    """The beginning of a file cannot be copied within storage, so all of it has to be sent. Nothing is visible."""


class NoBucket(StorageRefused):
    """The bucket does not exist, or its name is invalid: only another job definition helps."""


class Misconfigured(StorageRefused):
    """No request was sent: this worker's AWS settings cannot be used. Another worker's may be usable."""


class Changed(Exception):
    """Nothing was stored, because the current object is not the one that was to be replaced.

    `found` is what is there instead; Unknown if storage refuses the look-up, or did not say.
    """

    def __init__(self, what: str, found: ObjectState = UNKNOWN) -> None:
        super().__init__(what)
        self.found = found


def translated(operation: Callable[[], Result], what: str) -> Result:
    """Call `operation` and return its result. An error of boto3 is raised as one of this module's classes."""
    from botocore import exceptions as aws
    from urllib3.exceptions import HTTPError

    broken = (
        aws.ConnectionError,
        aws.HTTPClientError,
        aws.IncompleteReadError,
        aws.ResponseStreamingError,
        HTTPError,
        ConnectionError,
    )
    # These come with a request too, because credentials are looked up and renewed when it is signed.
    of_the_worker = (
        aws.ConfigNotFound,
        aws.ConfigParseError,
        aws.CredentialRetrievalError,
        aws.InvalidProxiesConfigError,
        aws.InvalidRegionError,
        aws.NoCredentialsError,
        aws.NoRegionError,
        aws.PartialCredentialsError,
        aws.ProfileNotFound,
        aws.TokenRetrievalError,
    )

    try:
        return operation()
    except of_the_worker as error:
        raise Misconfigured(f"{what}: {error}") from error
    except aws.ClientError as error:
        raise _refusal(error.response, what) from error
    except broken as error:
        raise StorageUnreachable(f"{what}: {type(error).__name__}") from error
    except (aws.BotoCoreError, ValueError) as error:
        raise StorageRefused(f"{what}: {error}") from error


def _refusal(response: Any, what: str) -> Exception:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(response.get("Error", {}).get("Code", status))
    sentence = f"{what}: {code}"
    if status == 501:  # storage does not implement this request or header
        return StorageRefused(sentence)
    if status >= 500 or status in (0, 408, 429) or 300 <= status < 400 or code in _PASSING_CODES:
        return StorageUnreachable(sentence)
    if status == 412 or code in _CONFLICTS:
        return Changed(sentence)
    kinds = {
        "NoSuchBucket": NoBucket,
        "InvalidBucketName": NoBucket,
        "NoSuchUpload": NoUpload,
        "NoSuchKey": NotThere,
        "404": NotThere,  # the answer to HEAD has no body, so it has no error code
    }
    return kinds.get(code, StorageRefused)(sentence)
