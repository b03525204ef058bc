"""The state that survives the worker: a JSON file, replaced atomically, used by one worker at a time.

The keys that the original wrote are kept for scripts that read them: `start`, and `jobs` with `id`, `status`,
`start`, `exitTime`, `exitCode`, `end`, `activeUploads`, `activeDownloads`. Under `kelpie` is what a job in hand
is resumed from.
"""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from kelpie_worker import logs
from kelpie_worker.job import Job, from_saved, is_text, is_whole, to_saved
from kelpie_worker.job_in_hand import JobInHand, Times
from kelpie_worker.messages import Ending, Verdict
from kelpie_worker.pipeline import JobState, Phase
from kelpie_worker.system import atomic, locks
from kelpie_worker.system.linux import boot_id
from kelpie_worker.workspace.own_files import keep_linked
from kelpie_worker.workspace.set_aside import is_place_aside

KEPT_FINISHED_JOBS = 100
_FINE = 10_000_000  # nanoseconds; times that are whole multiples are rounded, or copied with a file (FAT)
_BEFORE_ITS_END = (Phase.DOWNLOADING, Phase.RUNNING, Phase.STOPPING)  # of its command
_KNOWS_ITS_END = (Phase.FLUSHING, Phase.STAGING, Phase.UPLOADING, Phase.REPORTING, Phase.WIPING)


class StateFileInUse(Exception):
    """Another worker holds this state file."""


class StateFileCopied(ValueError):
    """The file was copied from another state file, whose worker may still hold its jobs."""


@dataclass
class WorkerState:
    """Everything that the next run of the worker needs. Jobs in hand are keyed by claim id."""

    start: str
    machine_id: str
    claim_id: str | None = None  # of the claim whose answer is not saved yet, or of the next one
    jobs: dict[str, JobInHand] = field(default_factory=dict)
    finished: list[dict[str, Any]] = field(default_factory=list)
    boot: str = field(default_factory=boot_id)

    def put(self, state: JobState) -> None:
        """Keep a job in hand as it is now; one that is done moves to the list of the finished."""
        claim_id = state.job.claim_id
        held = self.jobs.setdefault(claim_id, JobInHand(state, Times(start=logs.now())))
        held.state = state
        if state.phase not in _BEFORE_ITS_END and held.times.exit_time is None:
            held.times = replace(held.times, exit_time=logs.now())
        if state.phase is Phase.DONE:
            held.times, held.transfers = replace(held.times, end=logs.now()), None
            self.finished = [*self.finished, _listed(held)][-KEPT_FINISHED_JOBS:]
            del self.jobs[claim_id]

    def to_json(self) -> dict[str, Any]:
        in_hand = [{**_listed(held), "kelpie": _saved_state(held.state)} for held in self.jobs.values()]
        return {
            "start": self.start,
            "machine_id": self.machine_id,
            "claim_id": self.claim_id,
            "boot": self.boot,
            "jobs": [*self.finished, *in_hand],
        }


def _listed(held: JobInHand) -> dict[str, Any]:
    """As the original listed a job, with the attempt and how it ended."""
    state, times, transfers = held.state, held.times, held.transfers
    done = "completed" if state.verdict is Verdict.COMPLETED else "failed"
    return {
        "id": state.job.id,
        "status": done if state.phase is Phase.DONE else "running",
        "start": times.start,
        "exitTime": times.exit_time,
        "exitCode": state.outcome.exit_code if state.outcome else None,
        "end": times.end,
        "activeUploads": sorted(transfers.uploads) if transfers else [],
        "activeDownloads": sorted(transfers.downloads) if transfers else [],
        "attempt": state.job.attempt,
        "outcome": state.verdict,
    }


class StateStore(Protocol):
    state: WorkerState

    def save(self) -> None: ...


class StateFile:
    """The file, locked for as long as this object is open.

    Raises StateFileInUse if another worker has it, OSError if it cannot be written.

    A copy of it is not resumed from: the worker of the other may go on with the same jobs under the same machine
    id, and the coordinator could not tell the two apart.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._lock = _locked(self._path)
        self._troubled = False
        self.state = self._load()

    def keep_lock(self) -> None:
        """Lock the file anew if the lock file was removed, and so keeps no other worker away.

        The file may be gone with it, and the folder: so it is saved too. Raises StateFileInUse if another worker
        was faster.
        """
        try:
            if locks.is_at(_lock_of(self._path), self._lock):
                self._troubled = False
                return
            removed, self._lock = self._lock, _locked(self._path)
            os.close(removed)
            logs.warn("state_file_locked_again", detail=f"{_lock_of(self._path)} was removed")
            self.save()
        except OSError as error:  # a disk error: the job goes on, and the next save raises its own error
            if not self._troubled:
                logs.warn("state_file_not_locked", detail=str(error))
            self._troubled = True

    def save(self) -> None:
        """Replace the file. After a crash at any moment it is the old one or the new one, whole.

        Raises OSError, which then names the file; it is the old one.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**self.state.to_json(), "place": self._place()}, indent=1)
            keep_linked(self._path)
            atomic.write_text(self._path, text)
        except OSError as error:
            raise OSError(
                error.errno, f"the state file cannot be written: {error.strerror}", str(self._path)
            ) from error

    def close(self) -> None:
        os.close(self._lock)

    def _load(self) -> WorkerState:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return fresh_state()
        try:
            saved = json.loads(text)
            if not is_same_place(saved.get("place"), self._place()):
                raise StateFileCopied("a copy: its jobs are left to the worker that it is a copy of")
            return parse(saved)
        except StateFileCopied as error:
            logs.warn("state_file_copied", set_aside=str(self._set_aside("copied")), detail=str(error))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            aside = self._set_aside("damaged")
            logs.warn("state_file_damaged", set_aside=str(aside), error=f"{type(error).__name__}: {error}")
        return fresh_state()

    def _place(self) -> dict[str, Any]:
        """What a copy of the file does not share: the lock file, which is never replaced, and the folder."""
        lock, folder = os.fstat(self._lock), self._path.parent.stat()
        return {
            "lock": [lock.st_ino, lock.st_ctime_ns],
            "folder": [folder.st_ino, self._path.name],
            "disk": os.fstatvfs(self._lock).f_fsid or None,  # 0: the file system does not say which it is
        }

    def _set_aside(self, flaw: str) -> Path:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.{flaw}-{number}")).exists():
            number += 1
        self._path.rename(aside)
        return aside


def fresh_state() -> WorkerState:
    return WorkerState(start=logs.now(), machine_id=f"kelpie-{uuid.uuid4()}")


def parse(saved: Mapping[str, Any]) -> WorkerState:
    """The state in a file's JSON; any of ValueError, KeyError, TypeError, AttributeError if it is damaged."""
    machine_id, claim_id = saved["machine_id"], saved["claim_id"]
    if not machine_id or not is_text(machine_id):
        raise ValueError("machine_id is missing")
    if claim_id is not None and not _is_uuid(claim_id):
        raise ValueError("claim_id is no UUID")
    state = WorkerState(start=logs.now(), machine_id=machine_id, claim_id=claim_id)
    rebooted = not state.boot or saved.get("boot") != state.boot
    for entry in saved["jobs"]:
        if "kelpie" in entry:
            job = _parse_state(entry["kelpie"], rebooted)
            if job.job.claim_id in state.jobs:
                raise ValueError("a job is listed twice")
            state.jobs[job.job.claim_id] = JobInHand(job, _parse_times(entry))
        else:
            state.finished.append(dict(entry))
    return state


def is_same_place(saved: Any, own: Mapping[str, Any]) -> bool:
    """Whether a file was saved here, and is no copy. One fact that still holds is enough.

    Some disks number their inodes anew with every mount, owners change, and lock files are removed by hand; a copy
    shares no fact. An inode number alone is none, for each disk has its own numbers, and a rounded time is none
    either. Files of older releases name no disk, or have no facts at all, and count as saved here.
    """
    if saved is None:
        return True
    inode, changed = saved["lock"]
    is_same_inode, is_same_change = inode == own["lock"][0], changed == own["lock"][1]
    if is_same_change and (is_same_inode or changed % _FINE != 0):
        return True
    is_same_disk = "disk" not in saved or (saved["disk"] is not None and saved["disk"] == own["disk"])
    return is_same_disk and bool(is_same_inode or saved["folder"] == own["folder"])


def _is_uuid(value: Any) -> bool:
    """Whether it is a UUID in the spelling of this program, the only one that the server reads."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _parse_times(entry: Mapping[str, Any]) -> Times:
    times = Times(entry["start"], entry["exitTime"], entry["end"])
    if not isinstance(times.start, str) or not all(
        isinstance(at, str | None) for at in (times.exit_time, times.end)
    ):
        raise ValueError("a time is no string")
    return times


def _saved_state(state: JobState) -> dict[str, Any]:
    return {
        "job": to_saved(state.job),
        "phase": state.phase,
        "outcome": _saved_outcome(state.outcome) if state.outcome else None,
        "aside": state.aside,
        "begun": state.begun,
        "speaks": state.job.speaks,
    }


def _parse_state(saved: Mapping[str, Any], rebooted: bool) -> JobState:
    """A job in hand; ValueError for one that no way through the pipeline leads to.

    A command that ended with the machine has not failed.
    """
    outcome, aside, begun = saved["outcome"], saved["aside"], saved.get("begun", 0)
    if not is_whole(begun):
        raise ValueError("how often a command was begun is no number")
    speaks = tuple(saved.get("speaks", ()))  # older releases did not save it
    if not all(map(is_text, speaks)):
        raise ValueError("what the worker speaks is no text")
    job = replace(from_saved(saved["job"]), speaks=speaks)
    state = JobState(
        job=job,
        phase=Phase(saved["phase"]),
        outcome=None if outcome is None else _parse_outcome(outcome),
        aside=None if aside is None else tuple(_parse_move(job, *move) for move in aside),
        begun=max(0, begun - rebooted),
    )
    if state.phase is Phase.DONE or (state.phase in _KNOWS_ITS_END and state.outcome is None):
        raise ValueError(f"a job in hand is {state.phase} without an outcome")
    if state.phase is Phase.UPLOADING and state.aside is None:
        raise ValueError("outputs are uploaded from nowhere")
    return state


def _saved_outcome(outcome: Ending) -> dict[str, Any]:
    """The saved outcome, without free text, which may hold secrets: a report after a crash lacks it."""
    return {name: value for name, value in asdict(outcome).items() if name not in ("output", "detail")}


def _parse_outcome(saved: Mapping[str, Any]) -> Ending:
    outcome = Ending(Verdict(saved["verdict"]), saved["reason"], saved["exit_code"], stop=saved.get("stop"))
    if outcome.reason is not None and not is_text(outcome.reason):
        raise ValueError("a reason is no string")
    if outcome.stop is not None and not is_text(outcome.stop):
        raise ValueError("why a command was stopped is no string")
    if outcome.exit_code is not None and not is_whole(outcome.exit_code):
        raise ValueError("an exit code is no number")
    return outcome


def _parse_move(job: Job, source: Any, target: Any) -> tuple[str, str]:
    if not all(is_text(path) and Path(path).is_absolute() for path in (source, target)):
        raise ValueError("outputs were set aside at no absolute path")
    if not is_place_aside(target, job.claim_id):
        raise ValueError("outputs were set aside where Kelpie sets none aside")
    return source, target


def is_free(path: Path) -> bool:
    """Whether no worker has this state file open; nothing is made or changed. OSError."""
    return locks.is_free(_lock_of(path))


def _lock_of(path: Path) -> Path:
    """The path of the lock file. It is not the state file itself, which is a new inode after every save."""
    return path.with_name(path.name + ".lock")


def _locked(path: Path) -> int:
    try:
        return locks.lock_file(_lock_of(path))
    except locks.LockedElsewhere:
        raise StateFileInUse(
            f"Another worker uses the state file {path}: give each its own KELPIE_STATE_FILE."
        ) from None
