"""What an answer to a request says, and whose fault that is: the job's, the machine's or the storage's. Decisions
only: nothing here waits, reads a clock or sends a request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

CONFIRMED = 5.0  # seconds for which a refusal is repeated before it is believed
LONGEST = 600.0  # seconds for which one is repeated once the command has begun: its files cost hours


class Asked(StrEnum):
    """What was asked for, as far as it matters for reading the answer."""

    HEAD = "head"  # its answers have no body, so no error document either
    CONDITION = "condition"  # a write or delete with If-Match or If-None-Match
    VERSION = "version"  # bytes of one version of an object, or a copy of them
    OTHER = "other"


class Says(StrEnum):
    """What an answer says about the request."""

    NOTHING = "nothing"  # nothing came, or it is unreadable, or it comes from something before the storage
    LATER = "later"  # the storage cannot now, or the request was damaged on its way
    SETTINGS = "settings"  # this machine's key, clock, region or endpoint is not the right one
    REFUSED = "refused"
    NO_BUCKET = "no bucket"
    ABSENT = "absent"  # there is no such object, or not in this version
    NO_UPLOAD = "no upload"  # the multipart upload does not exist any more
    CONFLICT = "conflict"  # another object is there than the condition names
    UNTOLD = "untold"  # a refusal of a HEAD request: a GET request will tell


class Fault(StrEnum):
    NOT_YET = "ask again"
    JOB = "job"  # the attempt fails, and is counted
    MACHINE = "machine"  # the job is given back as `configuration`: the next machine may do better
    STORAGE = "storage"  # the job is given back as `storage`


class When(StrEnum):
    """Before the command starts, while it runs, or after it has ended."""

    BEFORE = "before"
    WHILE = "while"
    AFTER = "after"


_CODES = {
    Says.LATER: """
        BadDigest BucketExpanding Busy ClientDisconnect ConcurrentModification IDPCommunicationError IncompleteBody
        InsufficientCapacity InsufficientStorageSpace InternalError InvalidDigest InvalidPart InvalidPartOrder
        OperationAborted PriorRequestNotComplete ServiceUnavailable StorageFull TemporaryRedirect
        UserNetworkTooSlow XAmzContentChecksumMismatch XAmzContentSHA256Mismatch XMinioServerNotInitialized
        XMinioStorageFull
    """,
    Says.SETTINGS: """
        AccountProblem AuthFailure AuthorizationHeaderMalformed AuthorizationQueryParametersError
        DeregisterUserId FrozenUserId IllegalLocationConstraintException InArrearOrInsufficientBalance
        InvalidClientTokenId InvalidIdentityToken InvalidRegion
        InvalidSecurity InvalidToken InvalidTokenId MissingSecurityElement MissingSecurityHeader NotSignedUp
        PermanentRedirect Redirect TokenRefreshRequired Unauthorized UnrecognizedClientException UserDisable
        UserProjectAccountProblem UserSuspended
    """,
    Says.CONFLICT: "ConditionalRequestConflict InvalidRange PreconditionFailed",
    Says.NO_BUCKET: "InvalidBucketName NoSuchBucket",
    Says.ABSENT: "NoSuchKey NoSuchVersion",
    Says.NO_UPLOAD: "NoSuchUpload",
    Says.REFUSED: "NotImplemented",
}
# Each service has names of its own for too much at once, for a limit that is reached and for a request that took
# too long: ThrottledException, BandwidthLimitExceeded, KMS.ThrottlingException, StorageQuotaExceeded.
_LATER = re.compile(
    "Throttl|SlowDown|TooManyRequests|(Limit|Quota|Rate|Throughput|Cap)Exceeded|Timeout|TimedOut|InProgress|Busy"
    "|Concurrent|Overload|Unavailable",
    re.IGNORECASE,
)
# As for keys, tokens and signatures: InvalidAccessKeyId.NotFound, AccessKeyDisabled, InvalidSignature, KeyExpired,
# InvalidSecurityToken.Expired, InvalidSessionToken, IncompleteSignature, MissingAuthenticationToken.
_SETTINGS = re.compile(
    "Expired|AccessKey|Signature|Credential|(Security|Session|Authentication)Token|Skewed|NotAuthenticated"
)
_SAYS = {code: says for says, codes in _CODES.items() for code in codes.split()}
# The headers that only storage has, by their first letters: Amazon's, which nearly all others send too, and those
# of Google, Alibaba, Tencent, Huawei, Ceph, MinIO and Swift. CloudFront has pages of its own, with `x-amz-cf-id`.
_OWN_HEADER = re.compile("x-(amz-(?!cf-)|goog-|guploader-|oss-|cos-|obs-|rgw-|minio-|trans-id)")
_PAGE_TYPES = ("text/html", "application/xhtml")
_PAGE_NAME = re.compile(r"\.[a-z]?html?(\.gz)?$", re.IGNORECASE)


def said(status: int, code: str | None, asked: Asked = Asked.OTHER) -> Says:
    """What an answer says. `code` is that of its S3 error document; None: it has none. `status` 0: none came.

    Proxies, gateways and captive portals answer 404, 403, 407 or 200 with pages of their own while the storage
    restarts or is out of reach. Without an error document, nothing was said about the bucket.

        status      error code                       asked      says
        ----------  -------------------------------  ---------  ---------
        none        -                                any        nothing
        any         SlowDown, RequestTimeout, ...    any        later
        any         any with Throttl, LimitExceeded  any        later
        any         BadDigest, InvalidPart, ...      any        later
        any         ExpiredToken, AuthFailure, ...   any        settings
        any         PreconditionFailed               any        conflict
        any         InvalidRange                     any        conflict
        any         NoSuchBucket                     any        no bucket
        any         NoSuchKey, NoSuchVersion         any        absent
        any         NoSuchUpload                     any        no upload
        501         NotImplemented                   any        refused
        any         any with Expired, AccessKey, ..  any        settings
        412         any other                        any        conflict
        401         any other                        any        settings
        429         any other                        any        later
        5xx         AccessDenied                     any        refused
        5xx         any other                        any        later
        3xx         any other                        any        settings
        any other   any other                        any        refused
        412         none                             any        conflict
        501         none                             condition  refused
        408, 429    none                             any        nothing
        5xx         none                             any        nothing
        407         none                             any        nothing
        3xx, 4xx    none                             head       untold
        any other   none                             any        nothing
    """
    if code is not None:
        return _SAYS.get(code) or _said_by_word(code) or _said_by_status(status, code)
    if status == 412:
        return Says.CONFLICT
    if status == 501 and asked is Asked.CONDITION:
        return Says.REFUSED
    if 300 <= status < 500 and status not in (407, 408, 429) and asked is Asked.HEAD:
        return Says.UNTOLD
    return Says.NOTHING


def describes_object(headers: Mapping[str, str], key: str) -> bool:
    """Whether a success without an error document describes the object: else it says nothing, as `said` has it.

    A captive portal answers 200 to whatever it is asked for, and its page has an ETag where it is a file. Storage
    tells of every object when it was stored. `headers` are by names in lower case.

        a header of storage's own  Last-Modified  Content-Type   key    describes the object
        -------------------------  -------------  -------------  -----  --------------------
        yes                        any            any            any    yes
        no                         no             any            any    no
        no                         yes            that of pages  .html  yes
        no                         yes            that of pages  other  no
        no                         yes            any other      any    yes
    """
    if has_own_header(headers):
        return True
    if "last-modified" not in headers:
        return False
    return not _has_type_of_page(headers) or bool(_PAGE_NAME.search(key))


def has_own_header(headers: Mapping[str, str]) -> bool:
    """Whether an answer is the storage's own for certain: it has a header that only storage has."""
    return any(_OWN_HEADER.match(name) for name in headers)


def is_page(status: int, headers: Mapping[str, str]) -> bool:
    """Whether it is a page in place of a success that has no body, as that of a part or of a deletion."""
    is_html, length = _has_type_of_page(headers), headers.get("content-length")
    if status == 204 or length == "0":
        return False
    if length is None:  # an empty body may come in chunks, too
        return is_html and "transfer-encoding" in headers
    return is_html or not has_own_header(headers)


def _has_type_of_page(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").strip().lower().startswith(_PAGE_TYPES)


def _said_by_word(code: str) -> Says | None:
    """What a code says that not all services have, by the words that it is made of; None if they tell nothing."""
    if _LATER.search(code):
        return Says.LATER
    return Says.SETTINGS if _SETTINGS.search(code) else None


def _said_by_status(status: int, code: str) -> Says:
    """What an S3 error document says whose code is none of those above.

    Long requests are answered 200 before they are carried out, and boto3 takes a refusal in their body for a 500.
    """
    if status == 412:
        return Says.CONFLICT
    if status == 429 or (status >= 500 and code != "AccessDenied"):
        return Says.LATER
    if status == 401 or 300 <= status < 400:
        return Says.SETTINGS
    return Says.REFUSED


def whose_fault(says: Says, when: When, lasted: float) -> Fault:
    """Whose fault it is that a request has had such answers, and no other, for `lasted` seconds.

    A single refusal proves nothing: a key that was created a second ago is not known everywhere yet, credentials
    are renewed, a bucket is just being made. So each is repeated for CONFIRMED seconds, or for LONGEST. A misspelt
    bucket is found before the command starts; one that is missing later was there, and may come back.

        says       before                         while                          after
        ---------  -----------------------------  -----------------------------  -----------------------------
        nothing    storage                        ask again                      ask again
        later      storage                        ask again                      ask again
        settings   ask again 5 s, then machine    ask again 600 s, then machine  ask again 600 s, then machine
        refused    ask again 5 s, then job        ask again 600 s, then job      ask again 600 s, then job
        no bucket  ask again 5 s, then job        ask again 600 s, then job      ask again 600 s, then job
        absent     storage                        ask again                      ask again
        no upload  storage                        ask again                      ask again
        conflict   storage                        ask again                      ask again
        untold     storage                        ask again                      ask again
    """
    blamed = {Says.SETTINGS: Fault.MACHINE, Says.REFUSED: Fault.JOB, Says.NO_BUCKET: Fault.JOB}.get(says)
    if blamed is None:
        return Fault.STORAGE if when is When.BEFORE else Fault.NOT_YET
    return blamed if lasted >= (CONFIRMED if when is When.BEFORE else LONGEST) else Fault.NOT_YET
