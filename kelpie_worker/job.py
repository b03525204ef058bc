"""The job as the worker sees it: one shape, whichever generation of the API it was submitted to."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from kelpie_worker.config import LegacyDirectories
from kelpie_worker.limits import DEFAULT_HEARTBEAT_INTERVAL, LONGEST_HEARTBEAT_INTERVAL


@dataclass(frozen=True)
class SyncBlock:
    """A directory and its place in a bucket. `local_path` is absolute, `prefix` is empty or ends in `/`."""

    bucket: str
    prefix: str
    local_path: str
    pattern: str | None = None
    mirrors_deletes: bool = True  # a file that the command removes is removed from the bucket too


ObjectKey = tuple[str, str]  # bucket and key


@dataclass(frozen=True)
class StoredObject:
    """One version of an object in a bucket, as the answer that made it, or a listing, describes it."""

    bucket: str
    key: str
    size: int
    etag: str
    version_id: str | None = None

    @property
    def place(self) -> ObjectKey:
        return self.bucket, self.key


Manifest = tuple[StoredObject, ...]  # all of one generation of the checkpoints


class CheckpointStatus(StrEnum):
    """How the checkpoint in the bucket compares with the newest manifest that the coordinator knows."""

    CLEAN = "clean"
    TORN = "torn"  # or not provably whole: it is something else than what was reported
    NONE = "none"  # there is nothing to compare with


@dataclass(frozen=True)
class Job:
    """One handout of a job. `claim_id` names the handout, also where the server knows no attempts."""

    claim_id: str
    id: str
    attempt: int | None = None
    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    num_failures: int = 0
    compression: bool = False
    before: tuple[SyncBlock, ...] = ()
    during: tuple[SyncBlock, ...] = ()
    after: tuple[SyncBlock, ...] = ()
    checkpoint_status: str = CheckpointStatus.NONE  # known once everything is downloaded
    # Only of use while downloading, and long: never saved.
    checkpoint: Manifest = field(default=(), repr=False)
    # May hold secrets: never saved, fetched again when a job is resumed.
    command: str = field(default="", repr=False)
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def directories(self) -> list[str]:
        """Every directory of the job, each once."""
        return list(dict.fromkeys(block.local_path for block in (*self.before, *self.during, *self.after)))


Blocks = tuple[SyncBlock, ...]
_UNSAVED = ("checkpoint", "command", "arguments", "environment")


def from_wire(
    document: Mapping[str, Any], claim_id: str, directories: LegacyDirectories, attempt: int | None
) -> Job:
    """Read a job as the API shows it
    (docs/design/protocol.md, Submission); KeyError, TypeError or ValueError if it is none."""
    before, during, after = _blocks(document, directories)
    return Job(
        claim_id=claim_id,
        id=str(document["id"]),
        attempt=attempt,
        heartbeat_interval=float(document.get("heartbeat_interval") or DEFAULT_HEARTBEAT_INTERVAL),
        num_failures=int(document.get("num_failures") or 0),
        compression=bool(document.get("compression")),
        before=before,
        during=during,
        after=after,
        command=str(document["command"]),
        arguments=tuple(str(argument) for argument in document.get("arguments") or ()),
        environment={str(name): str(value) for name, value in (document.get("environment") or {}).items()},
        checkpoint=_manifest(document.get("checkpoint"), attempt),
    )


def to_saved(job: Job) -> dict[str, Any]:
    """What the state file keeps of a job: everything but what may hold a secret."""
    return {name: value for name, value in asdict(replace(job, checkpoint=())).items() if name not in _UNSAVED}


def from_saved(saved: Mapping[str, Any]) -> Job:
    """The job that `to_saved` saved. KeyError, TypeError or ValueError for anything that it would not write."""
    saved = {"checkpoint_status": CheckpointStatus.NONE, **saved}  # releases before it did not save it
    _demand(set(saved) == {part.name for part in fields(Job)} - set(_UNSAVED), "a job has other fields")
    blocks = {name: tuple(_saved_block(block) for block in saved[name]) for name in ("before", "during", "after")}
    job = Job(**{**saved, **blocks})
    # The claim id becomes part of a file's name, the job's id part of a URL.
    _demand(all(is_text(name) and name and "/" not in name for name in (job.claim_id, job.id)), "a job has no id")
    _demand(job.attempt is None or is_whole(job.attempt), "an attempt is no number")
    _demand(is_whole(job.num_failures), "the failures are no number")
    _demand(job.checkpoint_status in list(CheckpointStatus), "a checkpoint has another status")
    interval = job.heartbeat_interval
    _demand(isinstance(interval, int | float) and not isinstance(interval, bool), "an interval is no number")
    _demand(math.isfinite(interval) and 0 < interval <= LONGEST_HEARTBEAT_INTERVAL, "an interval is out of range")
    _demand(isinstance(job.compression, bool), "the compression is neither on nor off")
    return job


def is_whole(value: Any) -> bool:
    """Whether it is a number that counts something; JSON's true is a 1 to Python."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """Whether it is a string that can be sent and can name a file: no half surrogate pair, no NUL."""
    return isinstance(value, str) and not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value)


def _saved_block(saved: Mapping[str, Any]) -> SyncBlock:
    _demand(set(saved) == {part.name for part in fields(SyncBlock)}, "a sync block has other fields")
    block = SyncBlock(**saved)
    _demand(all(map(is_text, (block.bucket, block.prefix, block.local_path))), "a sync block holds no strings")
    _demand(block.pattern is None or is_text(block.pattern), "a pattern is no string")
    _demand(Path(block.local_path).is_absolute(), "a local path is relative")
    _demand(isinstance(block.mirrors_deletes, bool), "mirrors_deletes is neither on nor off")
    return block


def _manifest(document: Any, attempt: int | None) -> Manifest:
    """The newest manifest of a job; one that cannot be read is none, and stops no job.

    Its versions are worth going back to only if it is that of the attempt just before: one in between may have
    gone on for days and known no manifests.
    """
    try:
        follows = attempt is not None and bool(document) and document["attempt"] == attempt - 1
        return tuple(
            StoredObject(
                bucket=str(file["bucket"] or ""),
                key=str(file["key"]),
                size=int(file["size"]),
                etag=str(file["etag"] or ""),
                version_id=file.get("version_id") if follows else None,
            )
            for file in (document or {}).get("files") or ()
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _blocks(document: Mapping[str, Any], directories: LegacyDirectories) -> tuple[Blocks, Blocks, Blocks]:
    sync = document.get("sync")
    if sync is None and document.get("input_bucket"):
        return _legacy_blocks(document, directories)
    sync = sync or {}
    before, during, after = (_sync_blocks(sync.get(name) or ()) for name in ("before", "during", "after"))
    return before, during, after


def _sync_blocks(blocks: Iterable[Mapping[str, Any]]) -> Blocks:
    return tuple(
        SyncBlock(
            bucket=str(block["bucket"]),
            prefix=_as_folder(str(block.get("prefix") or "")),
            local_path=os.path.normpath(Path.cwd() / str(block["local_path"])),
            pattern=block.get("pattern") or None,
        )
        for block in blocks
    )


def _legacy_blocks(document: Mapping[str, Any], directories: LegacyDirectories) -> tuple[Blocks, Blocks, Blocks]:
    """Inputs come down, checkpoints go both ways, outputs go up as they appear and again at the end."""

    def block(kind: str, local_path: str, mirrors_deletes: bool = True) -> SyncBlock:
        bucket, prefix = str(document[f"{kind}_bucket"]), str(document.get(f"{kind}_prefix") or "")
        return SyncBlock(bucket, _as_folder(prefix), local_path, None, mirrors_deletes)

    inputs = block("input", directories.input)
    checkpoint = block("checkpoint", directories.checkpoint)
    output = block("output", directories.output, mirrors_deletes=False)
    return (inputs, checkpoint), (checkpoint, output), (output,)


def _as_folder(prefix: str) -> str:
    return prefix if prefix.endswith("/") or not prefix else prefix + "/"
