"""Which failures count towards the reallocation of the machine; each bans it from the job.

The worker has the same rules for the reallocation that it asks for itself, in
`kelpie_worker/salad/instance_policy.py`; a test compares them. A failure is the job's own where every machine
would have it: five misspelt buckets must not have a healthy fleet reallocated (docs/design/protocol.md, Bad
machines).
"""

from __future__ import annotations

import re

from kelpie_api.queue.states import Report

# Whether a failure with this reason is the job's own fault. One with another reason may be the machine's.
IS_JOBS_OWN_FAULT = {
    "exit_code": False,  # the command may have failed for the machine's GPU, driver or disk
    "signal": False,
    "oom": False,  # another machine may have more memory to spare
    "not_found": True,  # the image has no such command, wherever it runs
    "not_started": True,  # the system refuses the command line, such as one that is too long
    "download": True,  # no such bucket, no permission, an object that cannot be unpacked
    "upload": True,  # the same, unless its sentence is an error of the machine
    "pattern": True,  # it does not compile, or takes for ever
    "worker_broken": True,  # the command ended its worker three times without a checkpoint in between
    "stalled": True,  # it made no progress for as long as the job allows
}
# An `upload` fails because of the job or its bucket (a misspelt one, a permission, an object that is too large),
# unless its sentence is an error of the machine's system or of the worker: those begin with their class.
MACHINES_ERROR = re.compile(r"\w*(Error|Exception)\b|.*\[Errno ")
# But also then where it quotes what S3 answers for a bucket or a permission.
REFUSED = re.compile(
    r"\b(NoSuchBucket|InvalidBucketName|AccessDenied|AllAccessDisabled|InvalidAccessKeyId|Forbidden)\b"
)


def counts_against_machine(report: Report) -> bool:
    """Whether a reported failure may be the machine's fault.

    One without a reason may be, as the original's worker reports them; so may an upload without a sentence.
    """
    if report.reason == "upload":
        detail = report.detail or ""
        return not detail or (bool(MACHINES_ERROR.match(detail)) and not REFUSED.search(detail))
    return report.reason is None or not IS_JOBS_OWN_FAULT.get(report.reason, False)
