"""Which failures count towards the reallocation of the machine; each bans it from the job."""

from __future__ import annotations

import re

from kelpie_api.queue.states import Report

# Failure reasons that are the job's own fault, not the machine's: five misspelt buckets must not have a healthy
# fleet reallocated (docs/design/protocol.md, Bad machines).
JOBS_OWN_FAULTS = {"not_found", "not_started", "download", "pattern", "worker_broken"}

# What S3 answers to an upload for its bucket or for a permission, which no other machine would be given either.
# Workers quote the code in the sentence, or the status at its end where the answer had no body.
REFUSED_UPLOAD = re.compile(
    r"\b(NoSuchBucket|InvalidBucketName|BucketNotFound|AccessDenied|AllAccessDisabled|AccountProblem|NotSignedUp"
    r"|MethodNotAllowed|InvalidAccessKeyId|SignatureDoesNotMatch|AuthorizationHeaderMalformed|ExpiredToken|InvalidToken"
    r"|PermanentRedirect)\b"
    r"|: (401|403|404|405)\.?$"
)


def counts_against_machine(report: Report) -> bool:
    """Whether a reported failure may be the machine's fault. One without a reason, as the original's, may be."""
    if report.reason == "upload":
        return not REFUSED_UPLOAD.search(report.detail or "")
    return report.reason not in JOBS_OWN_FAULTS
