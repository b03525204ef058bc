"""What answers of storage say and whose fault they are: the tables of the module's docstrings, row by row."""

from __future__ import annotations

import inspect

import pytest
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from kelpie_worker.s3.whose_fault import (
    CONFIRMED,
    LONGEST,
    Asked,
    Fault,
    Says,
    When,
    describes_object,
    is_page,
    said,
    whose_fault,
)

# status, error code (None: no S3 error document), asked, says
ANSWERS = [
    (0, None, "any", "nothing"),
    (400, "SlowDown", "any", "later"),
    (403, "StorageQuotaExceeded", "any", "later"),
    (400, "BadDigest", "any", "later"),
    (400, "ExpiredToken", "any", "settings"),
    (200, "PreconditionFailed", "any", "conflict"),
    (416, "InvalidRange", "any", "conflict"),
    (404, "NoSuchBucket", "any", "no bucket"),
    (404, "NoSuchKey", "any", "absent"),
    (404, "NoSuchUpload", "any", "no upload"),
    (501, "NotImplemented", "any", "refused"),
    (400, "AccessKeyDisabled", "any", "settings"),
    (412, "ConditionNotMet", "any", "conflict"),
    (401, "SomethingElse", "any", "settings"),
    (429, "SomethingElse", "any", "later"),
    (500, "AccessDenied", "any", "refused"),
    (503, "SomethingElse", "any", "later"),
    (301, "SomethingElse", "any", "settings"),
    (403, "AccessDenied", "any", "refused"),
    (412, None, "any", "conflict"),
    (501, None, "condition", "refused"),
    (408, None, "any", "nothing"),
    (500, None, "any", "nothing"),
    (407, None, "any", "nothing"),
    (404, None, "head", "untold"),
    (404, None, "other", "nothing"),
]


def rows_of(function: object) -> list[list[str]]:
    """The cells of the table in a docstring."""
    lines = inspect.getdoc(function).splitlines()  # type: ignore[union-attr]  # every table has a docstring
    table = [line for line in lines if line.startswith("    ")]
    ruler = table[1]
    starts = [at for at, sign in enumerate(ruler) if sign == "-" and ruler[at - 1] == " "]
    ends = [*starts[1:], None]
    return [
        [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        for line in table[2:]
        if line.strip()
    ]


def test_the_table_of_answers_has_the_rows_that_are_tested() -> None:
    table = [(row[2], row[3]) for row in rows_of(said)]
    assert table == [("any" if asked == "other" else asked, says) for _, _, asked, says in ANSWERS]


@pytest.mark.parametrize(("status", "code", "asked", "says"), ANSWERS)
def test_an_answer_says_what_its_row_says(status: int, code: str | None, asked: str, says: str) -> None:
    for kind in Asked if asked == "any" else [Asked(asked)]:
        assert said(status, code, kind) is Says(says)


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ("RequestTimeout InternalError OperationAborted InvalidPart XMinioStorageFull QuotaExceeded", Says.LATER),
        ("ClientDisconnect RequestThrottled PriorRequestNotComplete ConcurrentModification", Says.LATER),
        ("XMinioAdminBucketQuotaExceeded IDPCommunicationError", Says.LATER),
        ("RequestTimeTooSkewed InvalidAccessKeyId SignatureDoesNotMatch InvalidToken", Says.SETTINGS),
        ("AuthorizationHeaderMalformed PermanentRedirect TokenRefreshRequired", Says.SETTINGS),
        ("ExpiredRequest InvalidTokenId UserSuspended SecurityTokenExpired InvalidSecurityToken", Says.SETTINGS),
        ("CredentialsNotSupported InvalidIdentityToken ExpiredTokenException RequestExpired", Says.SETTINGS),
        ("InvalidAccessKeyId.NotFound InvalidSecurityToken.Expired AccessKeyDisabled KeyExpired", Says.SETTINGS),
        ("InvalidSignature IncompleteSignature MissingAuthenticationToken NotAuthenticated", Says.SETTINGS),
        ("MissingSecurityHeader UserDisable InvalidSessionToken", Says.SETTINGS),
        ("UserNetworkTooSlow InsufficientStorageSpace BucketExpanding", Says.LATER),
        ("InArrearOrInsufficientBalance FrozenUserId DeregisterUserId", Says.SETTINGS),
        ("GatewayTimeout ServerBusy ConcurrentRequest BackendUnavailable CapExceeded", Says.LATER),
        ("AccessDenied InvalidObjectState KeyTooLongError EntityTooLarge", Says.REFUSED),
        ("NoSuchVersion", Says.ABSENT),
        ("InvalidBucketName", Says.NO_BUCKET),
        ("ConditionalRequestConflict", Says.CONFLICT),
    ],
)
def test_a_code_outweighs_the_status(codes: str, says: Says) -> None:
    for code in codes.split():
        assert said(400, code) is says


def test_whatever_boto3_takes_for_too_much_at_once_is_asked_again() -> None:
    for code in (
        *ThrottledRetryableChecker._THROTTLED_ERROR_CODES,
        *TransientRetryableChecker._TRANSIENT_ERROR_CODES,
    ):
        assert said(400, code) is Says.LATER
    for code in ("KMS.ThrottlingException", "rateLimitExceeded", "XMinioAdminBucketQuotaExceeded"):
        assert said(403, code) is Says.LATER


@pytest.mark.parametrize("status", [*range(200, 206), *range(400, 408), *range(409, 412), 413, 418, 451, 502, 504])
def test_nothing_was_said_about_the_bucket_without_an_error_document(status: int) -> None:
    assert said(status, None) is Says.NOTHING


STORED = {"etag": '"x"', "last-modified": "Wed, 12 Oct 2022 17:50:00 GMT"}
PAGE = {"content-type": "text/html; charset=utf-8"}
# Each list has the headers and the key of successes that the row is of.
SUCCESSES = [
    (
        ("yes", "any", "any", "any", "yes"),
        [
            ({"x-amz-request-id": "1"}, "key"),
            ({"x-amz-version-id": "1", **PAGE}, "key"),
            ({"x-goog-hash": "md5=", "x-guploader-uploadid": "1"}, "key"),
            ({"x-amz-cf-id": "1", "x-amz-id-2": "1"}, "key"),
            *(
                ({f"x-{name}": "1"}, "key")
                for name in ("oss-request-id", "cos-request-id", "obs-id-2", "trans-id")
            ),
        ],
    ),
    (
        ("no", "no", "any", "any", "no"),
        [
            ({}, "key"),  # cut off
            ({"etag": '"x"'}, "key"),
            ({"etag": 'W/"x"', "x-powered-by": "Express", **PAGE}, "page.html"),
            ({"etag": '"x"', "content-type": "application/json", "x-request-id": "1"}, "key"),
            ({"etag": '"x"', "x-amz-cf-id": "1"}, "key"),  # CloudFront's page
        ],
    ),
    (
        ("no", "yes", "that of pages", ".html", "yes"),
        [(STORED | PAGE, key) for key in ("out/page.html", "a.HTM", "a.xhtml", "a.html.gz")],
    ),
    (
        ("no", "yes", "that of pages", "other", "no"),
        [
            (STORED | PAGE, "out/model.pt"),
            (STORED | {"content-type": "Text/HTML"}, "html"),
            (STORED | {"content-type": "application/xhtml+xml"}, "x"),
        ],
    ),
    (
        ("no", "yes", "any other", "any", "yes"),
        [(STORED, "key"), (STORED | {"etag": 'W/"x"', "content-type": "text/plain"}, "key")],
    ),
]


def test_the_table_of_successes_has_the_rows_that_are_tested() -> None:
    assert [tuple(row) for row in rows_of(describes_object)] == [row for row, _ in SUCCESSES]


@pytest.mark.parametrize(("row", "answers"), SUCCESSES)
def test_a_success_describes_an_object_or_not_as_its_row_says(
    row: tuple[str, ...], answers: list[tuple[dict[str, str], str]]
) -> None:
    for headers, key in answers:
        assert describes_object(headers, key) is (row[-1] == "yes"), headers


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, PAGE | {"content-length": "44"}, True),
        (200, PAGE | {"transfer-encoding": "chunked"}, True),
        (200, PAGE | {"content-length": "0"}, False),
        (200, PAGE, False),
        (204, PAGE | {"transfer-encoding": "chunked"}, False),
        (200, {"content-length": "44", "content-type": "text/xml"}, True),
        (200, {"content-length": "44", "x-amz-request-id": "1"}, False),
        (200, {"transfer-encoding": "chunked"}, False),
    ],
)
def test_a_page_in_place_of_a_success_without_a_body_is_one(
    status: int, headers: dict[str, str], expected: bool
) -> None:
    assert is_page(status, headers) is expected


FAULTS = [
    ("nothing", "storage", "ask again", "ask again"),
    ("later", "storage", "ask again", "ask again"),
    ("settings", "ask again 5 s, then machine", "ask again 600 s, then machine", "ask again 600 s, then machine"),
    ("refused", "ask again 5 s, then job", "ask again 600 s, then job", "ask again 600 s, then job"),
    ("no bucket", "ask again 5 s, then job", "ask again 600 s, then job", "ask again 600 s, then job"),
    ("absent", "storage", "ask again", "ask again"),
    ("no upload", "storage", "ask again", "ask again"),
    ("conflict", "storage", "ask again", "ask again"),
    ("untold", "storage", "ask again", "ask again"),
]


def test_the_table_of_faults_has_the_rows_that_are_tested() -> None:
    assert [tuple(row) for row in rows_of(whose_fault)] == FAULTS
    assert (CONFIRMED, LONGEST) == (5, 600)


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_a_fault_is_found_as_its_row_says(row: tuple[str, str, str, str]) -> None:
    for when, cell in zip(When, row[1:], strict=True):
        again, _, then = cell.rpartition(", then ")
        if not again:
            assert {whose_fault(Says(row[0]), when, lasted) for lasted in (0, 5, 600)} == {Fault(cell)}
            continue
        seconds = float(again.removeprefix("ask again ").removesuffix(" s"))
        assert whose_fault(Says(row[0]), when, 0) is Fault.NOT_YET
        assert whose_fault(Says(row[0]), when, seconds - 0.1) is Fault.NOT_YET
        assert whose_fault(Says(row[0]), when, seconds) is Fault(then)
