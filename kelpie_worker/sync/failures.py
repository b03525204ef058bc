"""What an error about a job's files means for its attempt, and whether to retry. Decisions only."""

import errno

from kelpie_worker import logs
from kelpie_worker.messages import Download, Flush, Refused, Stage, Troubled, Upload, Watch, Wipe
from kelpie_worker.s3 import whose_fault
from kelpie_worker.s3.errors import (
    Misconfigured,
    NoDestination,
    NotThere,
    StorageRefused,
    StorageUnreachable,
    Untold,
)
from kelpie_worker.s3.whose_fault import Fault
from kelpie_worker.sync.download import PathConflict
from kelpie_worker.system.linux import is_disk_full
from kelpie_worker.system.retry import Failure
from kelpie_worker.transfer.compression import NotPacked
from kelpie_worker.workspace.directories import FilesLost
from kelpie_worker.workspace.set_aside import OutputReplaced

_JOBS_FAULT = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)  # a key that is no name for a file
Work = Download | Watch | Flush | Stage | Upload | Wipe


class WorkFailed(Exception):
    """A command about files failed.

    `answer` is the message for it; `fault` is whose it is, None if no answer of storage says that.
    """

    def __init__(self, answer: Refused | Troubled, fault: Fault | None) -> None:
        super().__init__(answer.detail)
        self.answer = answer
        self.fault = fault


def answer_to(error: Exception, command: Work) -> Refused | Troubled:
    """What an error means for the attempt: it fails if the job's definition is at fault, else it is given back."""
    claim_id = command.job.claim_id
    reason = "download" if isinstance(command, Download) else "upload"
    detail = f"{type(error).__name__}: {error}"
    match error:
        case Misconfigured():
            return Troubled(claim_id, "configuration", str(error))
        case NoDestination():
            return Refused(claim_id, "upload", str(error))
        case NotThere() | Untold():
            return Troubled(claim_id, "storage", str(error))
        case StorageRefused() | OutputReplaced() | NotPacked() | PathConflict():
            return Refused(claim_id, reason, str(error))
        case FilesLost():
            return Troubled(claim_id, "disk", str(error))
        case StorageUnreachable():
            return Troubled(claim_id, "storage", str(error))
        case OSError() if is_disk_full(error):
            return Troubled(claim_id, "disk_full", str(error))
        case OSError() if isinstance(command, Download | Watch) and _is_the_machines(error):
            return Troubled(claim_id, "disk", detail)
        case OSError():
            return Refused(claim_id, reason, detail)
        case ValueError():
            return Refused(claim_id, "pattern", str(error))
    logs.error("uploader_failed", command.job, command=type(command).__name__, detail=detail)
    return Troubled(claim_id, "internal", detail)


def may_be_repeated(failure: Failure[WorkFailed], command: Work) -> bool:
    """Whether a failed command is to be retried: the files of a job's ended command are worth waiting for.

    Outputs that were set aside delay no other job, so they are retried without a limit. A refused download is
    repeated until it is clear whose fault that is.
    """
    answer = failure.error.answer
    if isinstance(command, Download):
        return failure.error.fault is Fault.NOT_YET
    if isinstance(answer, Refused):
        return False
    if isinstance(command, Upload) and answer.reason not in ("internal", "configuration"):
        return True
    is_lost = answer.reason == "disk"  # what is gone does not come back
    return isinstance(command, Flush | Stage | Upload) and not is_lost and failure.waited < whose_fault.LONGEST


def last_answer(answer: Refused | Troubled, command: Work) -> Refused | Troubled:
    """The answer when retrying ends.

    Outputs that a defect of the worker keeps back fail the job: given back, it would run again for ever.
    """
    if isinstance(command, Upload) and isinstance(answer, Troubled) and answer.reason == "internal":
        return Refused(answer.claim_id, "upload", answer.detail)
    return answer


def _is_the_machines(error: OSError) -> bool:
    """Whether another machine may do better. An error without a number comes from a process that was killed."""
    return error.errno not in _JOBS_FAULT
