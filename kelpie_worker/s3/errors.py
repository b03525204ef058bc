"""The errors of storage: boto3's many exceptions mapped to a few classes, by what a caller can do about them.

Which answer becomes which class, and whose fault it is, says the table in `whose_fault.py`.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from kelpie_worker.s3.objects import UNKNOWN, ObjectState
from kelpie_worker.s3.whose_fault import Asked, Says, is_page, said

Result = TypeVar("Result")


class StorageUnreachable(Exception):
    """Storage gave no answer, or an unusable one; a later try may succeed."""

    says: ClassVar[Says] = Says.NOTHING


class StorageRefused(Exception):
    """Storage refused the request: no permission, or it does not do such a thing."""

    says: ClassVar[Says] = Says.REFUSED


class Unsaid(StorageUnreachable):
    """Something before the storage refused the request, perhaps this one alone: for its size, or a word in it."""


class RefusedOnTheWay(StorageRefused):
    """Something before the storage refuses one upload for good, and lets others pass."""


class NotTheListed(StorageUnreachable):
    """An answer has the ETag of the listed object and another size."""


class NotThere(StorageRefused):
    """The object does not exist, or not in the version that was asked for."""

    says = Says.ABSENT


class NoUpload(NotThere):
    """The multipart upload does not exist (any more)."""

    says = Says.NO_UPLOAD


class Untold(StorageRefused):
    """A HEAD request was refused, in an answer that cannot say why."""

    says = Says.UNTOLD


class NotBegun(StorageRefused):
    """An upload was refused before any byte of it was sent; the reason may concern this key only."""


class NotCopied(Exception):
    """The beginning of a file cannot be copied within storage, so all of it has to be sent. Nothing is visible."""


class Forbidden(StorageRefused):
    """Storage knows the key and does not let it do this."""


class NoDestination(StorageRefused):
    """What the job will upload can go nowhere; found out before its command starts."""


class NoBucket(StorageRefused):
    """The bucket does not exist, or its name is invalid: only another job definition helps."""

    says = Says.NO_BUCKET


class Misconfigured(StorageRefused):
    """This worker's AWS settings cannot be used, or storage does not accept its key, clock or region.

    Another worker's may be usable.
    """

    says = Says.SETTINGS


class Changed(Exception):
    """Nothing was stored, because the current object is not the one that was to be replaced.

    `found` is what is there instead; Unknown if storage refuses the look-up, or did not say.
    """

    def __init__(self, what: str, found: ObjectState = UNKNOWN) -> None:
        super().__init__(what)
        self.found = found


_CLASSES: dict[Says, type[Exception]] = {
    Says.NOTHING: StorageUnreachable,
    Says.LATER: StorageUnreachable,
    Says.SETTINGS: Misconfigured,
    Says.REFUSED: StorageRefused,
    Says.NO_BUCKET: NoBucket,
    Says.ABSENT: NotThere,
    Says.NO_UPLOAD: NoUpload,
    Says.CONFLICT: Changed,
    Says.UNTOLD: Untold,
}
_ADVICE = {
    "RequestTimeTooSkewed": "; this machine's clock is wrong: set it",
    "ExpiredToken": "; give this machine a session token that is valid",
    "PermanentRedirect": "; check AWS_REGION and AWS_ENDPOINT_URL",
    "AuthorizationHeaderMalformed": "; check AWS_REGION",
    "IllegalLocationConstraintException": "; check AWS_REGION",
    "InArrearOrInsufficientBalance": "; the account that the bucket belongs to has to be paid for",
    "InvalidObjectState": "; it is archived: restore it, or copy it to another storage class",
} | dict.fromkeys(
    (
        "InsufficientStorageSpace",
        "QuotaExceeded",
        "StorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    ),
    "; there is no room: delete objects, or have the quota of the bucket raised",
)
_VERIFICATION = re.compile(r"certificate verify failed: ([^(\])]+)")
_TRUST = (
    "if the bucket's certificate is of an authority of your own, name that in AWS_CA_BUNDLE, or"
    " SSL_CERT_FILE or SSL_CERT_DIR"
)
_CHECK_KEY = "; check this machine's AWS key"


def translated(operation: Callable[[], Result], what: str, asked: Asked = Asked.OTHER) -> Result:
    """Call `operation` and return its result. An error of boto3 is raised as one of this module's classes."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    broken = (
        aws.ConnectionError,
        aws.FlexibleChecksumError,
        aws.HTTPClientError,
        aws.IncompleteReadError,
        aws.ResponseStreamingError,
        HTTPError,
        ConnectionError,
    )

    try:
        answer = operation()
    except aws.ClientError as error:
        raise _error_said_by(error.response, what, asked) from error
    except broken as error:
        raise StorageUnreachable(f"{what}: {_name_of(error)}") from error
    except aws.ParamValidationError as error:
        if "bucket name" in str(error).lower():
            raise NoBucket(f"{what}: InvalidBucketName ({error})") from error
        raise StorageRefused(f"{what}: {error}") from error
    except aws.BotoCoreError as error:
        # These come with a request too, because credentials are looked up and renewed when it is signed.
        raise Misconfigured(f"{what}: {error}") from error
    except (ResponseParserError, ValueError) as error:
        raise StorageUnreachable(f"{what}: an answer that cannot be read ({error})"[:500]) from error
    if _is_page(answer):
        raise StorageUnreachable(f"{what}: a page of HTML came in place of the storage's answer")
    return answer


def _error_said_by(response: Any, what: str, asked: Asked) -> Exception:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error_code(response.get("Error", {}).get("Code"))
    says = said(status, code, asked)
    kind = Forbidden if says is Says.REFUSED and status == 403 else _CLASSES[says]
    if says is Says.CONFLICT and asked not in (Asked.CONDITION, Asked.VERSION):
        kind = StorageUnreachable  # no condition was sent: something in between does not read what it passes on
    if says is Says.NOTHING and 400 <= status < 500 and status not in (407, 408, 429):
        kind = Unsaid
    return kind(f"{what}: {_words(status, code, says)}")


def error_code(found: object) -> str | None:
    """The code of an S3 error document; None if there was none, where boto3 gives the status in its place."""
    code = str(found or "")
    return None if not code or code.isdigit() else code


def _words(status: int, code: str | None, says: Says) -> str:
    if code is None:
        advice = (
            " without an S3 error document, as if from a proxy" if says is Says.NOTHING and status < 500 else ""
        )
        return f"{status}{advice}"
    return code + _ADVICE.get(code, _CHECK_KEY if says is Says.SETTINGS else "")


def _name_of(error: Exception) -> str:
    """The error's class, and the setting that it may come from."""
    name = type(error).__name__
    if not (reason := _VERIFICATION.search(str(error))):
        return name
    return f"{name} ({reason[1].strip()}); {_TRUST}"


def _is_page(answer: Any) -> bool:
    """Whether it is a page of HTML in place of a success that has no body."""
    if not isinstance(answer, dict) or answer.keys() - {"ResponseMetadata", "ETag", "VersionId"}:
        return False
    told = answer.get("ResponseMetadata", {})
    return is_page(told.get("HTTPStatusCode", 0), told.get("HTTPHeaders", {}))
