"""What storage answers when it does not do as it is asked: our few words for the many of boto3."""

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
    """Storage did not answer, or not as it should; it may be otherwise in a moment."""


class StorageRefused(Exception):
    """Storage answered no: no such bucket, no permission, no credentials. Asking again changes nothing."""


class NotTheListed(StorageUnreachable):
    """What came bears the name of what was listed, and has another size."""


class NotThere(StorageRefused):
    """There is no such object (or multipart upload)."""


class NoUpload(NotThere):
    """There is no such multipart upload (any more)."""


class NotBegun(StorageRefused):
    """An upload was refused before any byte of it was sent: it may be for its key alone."""


class NoBucket(StorageRefused):
    """There is no such bucket, nor can there be one of that name: only another job definition helps."""


class Misconfigured(StorageRefused):
    """No request left this worker: its AWS settings cannot be used. Another worker may have better ones."""


class Changed(Exception):
    """Nothing was stored: `found` is there, and not what was to be replaced.

    `found` is Unknown where storage does not let this worker look, or did not say.
    """

    def __init__(self, what: str, found: ObjectState = UNKNOWN) -> None:
        super().__init__(what)
        self.found = found


def translated(operation: Callable[[], Result], what: str) -> Result:
    """The operation's result, its errors turned into ours."""
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
    # Credentials are looked for, and renewed, when a request is signed.
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
    if status == 501:  # it knows no such request, or no such header
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
        "404": NotThere,  # the answer to HEAD has no body, and so no code
    }
    return kinds.get(code, StorageRefused)(sentence)
