"""Which failures count towards the reallocation of the machine; each bans it from the job."""

from __future__ import annotations

import re

from kelpie_api.queue.states import Report

# Failure reasons that are the job's own fault, not the machine's: five misspelt buckets must not have a healthy
# fleet reallocated (docs/design/protocol.md, Bad machines).
JOBS_OWN_FAULTS = {"not_found", "not_started", "download", "pattern", "worker_broken"}

# An `upload` fails because of the job or its bucket (a misspelt one, a permission, an object that is too large),
# unless its sentence is an error of the machine's system or of the worker: those begin with their class.
MACHINES_ERROR = re.compile(r"\w*(Error|Exception)\b|.*\[Errno ")
# But also then where it quotes what S3 answers for a bucket or a permission.
REFUSED = re.compile(
    r"\b(NoSuchBucket|InvalidBucketName|AccessDenied|AllAccessDisabled|InvalidAccessKeyId|Forbidden)\b"
)


def counts_against_machine(report: Report) -> bool:
    """Whether a reported failure may be the machine's fault. One without a reason, as the original's, may be."""
    if report.reason == "upload" and report.detail:
        return bool(MACHINES_ERROR.match(report.detail)) and not REFUSED.search(report.detail)
    return report.reason not in JOBS_OWN_FAULTS
