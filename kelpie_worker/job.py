"""The job as the worker sees it: one shape, for jobs of the current API and of the legacy one."""

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

from kelpie_worker.config import LegacyDirectories
from kelpie_worker.limits import DEFAULT_HEARTBEAT_INTERVAL, LONGEST_HEARTBEAT_INTERVAL


@dataclass(frozen=True)
class SyncBlock:
    """A directory and the prefix it is synced with. `local_path` is absolute, `prefix` is empty or ends in `/`."""

    bucket: str
    prefix: str
    local_path: str
    pattern: str | None = None
    mirrors_deletes: bool = True  # a file that the command deletes is deleted from the bucket too
    named: str = field(
        default="", compare=False
    )  # the directory as the job names it, if it does; for the state file


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


Manifest = tuple[StoredObject, ...]  # all objects of one generation of the checkpoints


class CheckpointStatus(StrEnum):
    """How the checkpoint in the bucket compares with the newest manifest that the coordinator knows."""

    CLEAN = "clean"
    TORN = "torn"  # it differs from the manifest, so that it may mix files of several generations
    NONE = "none"  # there is no manifest to compare with


OnStall = Literal["notify", "restart", "fail"]
CheckpointSignal = Literal["USR1", "USR2"]


@dataclass(frozen=True)
class Steering:
    """What the job asks of its worker besides, where the server knows such fields."""

    keep_output: int = 0  # bytes of the output's end that the coordinator keeps; 0: none is sent
    stall_after: float | None = None  # seconds without progress after which it has stalled; None: never
    on_stall: OnStall = "notify"
    checkpoint_signal: CheckpointSignal | None = None  # sent before the command is stopped


@dataclass(frozen=True)
class Job:
    """One attempt at a job. `claim_id` identifies the attempt, also where the server does not number attempts."""

    claim_id: str
    id: str
    attempt: int | None = None
    heartbeat_interval: float = DEFAULT_HEARTBEAT_INTERVAL
    num_failures: int = 0
    compression: bool = False
    before: tuple[SyncBlock, ...] = ()
    during: tuple[SyncBlock, ...] = ()
    after: tuple[SyncBlock, ...] = ()
    checkpoint_status: str = CheckpointStatus.NONE  # set when everything is downloaded
    speaks: tuple[str, ...] = ()  # the parts of the protocol that its claim named, and the server knows
    # Needed only while downloading, and long: not saved.
    checkpoint: Manifest = field(default=(), repr=False)
    checkpoint_by: int | None = None  # the attempt that reported it
    # May hold secrets: not saved, but fetched again when a job is resumed.
    command: str = field(default="", repr=False)
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()  # variables of the environment whose values the project keeps as secrets
    steering: Steering = Steering()

    @property
    def directories(self) -> list[str]:
        """Every directory of the job, each once."""
        return list(dict.fromkeys(block.local_path for block in (*self.before, *self.during, *self.after)))

    def as_named(self, path: str) -> str:
        """An absolute path in one of the directories as the job names that; any other path as it is."""
        for block in (*self.before, *self.during, *self.after):
            if block.named and path.startswith(block.local_path.rstrip("/") + "/"):
                return os.path.normpath(Path(block.named, os.path.relpath(path, block.local_path)))
        return path


Blocks = tuple[SyncBlock, ...]
RECALLED = ("command", "arguments", "environment", "secrets", "steering")  # not saved, but fetched again
# `speaks` is saved beside the job, for the release before reads no job that has it.
_UNSAVED = ("checkpoint", "checkpoint_by", "speaks", *RECALLED)


def from_wire(
    document: Mapping[str, Any],
    claim_id: str,
    directories: LegacyDirectories,
    attempt: int | None,
    speaks: Collection[str] = (),
) -> Job:
    """Read a job from the API's JSON (docs/design/protocol.md, Submission); `speaks` is what its claim named.

    Raises KeyError, TypeError or ValueError if it is no valid job.
    """
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
        secrets=_names(document.get("secrets")),
        checkpoint=_manifest(document.get("checkpoint"), attempt),
        checkpoint_by=_reported_by(document.get("checkpoint")),
        speaks=tuple(sorted(speaks)),
        steering=_steering(document, speaks),
    )


def to_saved(job: Job) -> dict[str, Any]:
    """The fields of a job that the state file keeps: all but those that may hold a secret or are not needed."""
    return {name: value for name, value in asdict(replace(job, checkpoint=())).items() if name not in _UNSAVED}


def from_saved(saved: Mapping[str, Any]) -> Job:
    """The job that `to_saved` saved. Raises KeyError, TypeError or ValueError for what it would not write."""
    saved = {"checkpoint_status": CheckpointStatus.NONE, **saved}  # older releases did not save it
    _demand(set(saved) == {part.name for part in fields(Job)} - set(_UNSAVED), "a job has other fields")
    blocks = {name: tuple(_saved_block(block) for block in saved[name]) for name in ("before", "during", "after")}
    job = Job(**{**saved, **blocks})
    # The claim id becomes part of a file name, the job's id part of a URL.
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
    """Whether it is an integer of at least 0. JSON's true does not count, though Python's bool is an int."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """Whether it is a string that can be sent and can name a file: without lone surrogates and NUL."""
    return isinstance(value, str) and not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value)


def _saved_block(saved: Mapping[str, Any]) -> SyncBlock:
    saved = {"named": "", **saved}  # older releases did not save it
    _demand(set(saved) == {part.name for part in fields(SyncBlock)}, "a sync block has other fields")
    block = SyncBlock(**saved)
    texts = (block.bucket, block.prefix, block.local_path, block.named)
    _demand(all(map(is_text, texts)), "a sync block holds no strings")
    _demand(block.pattern is None or is_text(block.pattern), "a pattern is no string")
    _demand(Path(block.local_path).is_absolute(), "a local path is relative")
    _demand(isinstance(block.mirrors_deletes, bool), "mirrors_deletes is neither on nor off")
    return block


def _manifest(document: Any, attempt: int | None) -> Manifest:
    """The newest manifest of a job; empty if there is none, or one that cannot be read.

    Its version ids are used only if it is the previous attempt's: an attempt in between, by a worker that reports
    no manifests, may have worked for days after it.
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


def _reported_by(document: Any) -> int | None:
    """The attempt that reported a manifest; None if that is not said."""
    attempt = document.get("attempt") if isinstance(document, Mapping) else None
    return attempt if is_whole(attempt) else None


def _names(listed: Any) -> tuple[str, ...]:
    return tuple(filter(is_text, listed)) if isinstance(listed, list) else ()


def _steering(document: Mapping[str, Any], speaks: Collection[str]) -> Steering:
    """What is asked for and can be done. A value that no server of this protocol sends counts as absent."""
    keep: Any = document.get("keep_output")
    after: Any = document.get("stall_after")
    on_stall: Any = document.get("on_stall")
    number: Any = document.get("checkpoint_signal")
    is_positive = isinstance(after, int | float) and not isinstance(after, bool) and after > 0
    return Steering(
        keep_output=keep if "output" in speaks and is_whole(keep) else 0,
        stall_after=float(after) if "progress" in speaks and is_positive else None,
        on_stall=on_stall if on_stall in get_args(OnStall) else "notify",
        checkpoint_signal=number if "steer" in speaks and number in get_args(CheckpointSignal) else None,
    )


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
            named=str(block["local_path"]),
        )
        for block in blocks
    )


def _legacy_blocks(document: Mapping[str, Any], directories: LegacyDirectories) -> tuple[Blocks, Blocks, Blocks]:
    """Inputs are downloaded, checkpoints synced both ways, outputs uploaded as they appear and at the end."""

    def block(kind: str, local_path: str, mirrors_deletes: bool = True) -> SyncBlock:
        bucket, prefix = str(document[f"{kind}_bucket"]), str(document.get(f"{kind}_prefix") or "")
        return SyncBlock(bucket, _as_folder(prefix), local_path, None, mirrors_deletes)

    inputs = block("input", directories.input)
    checkpoint = block("checkpoint", directories.checkpoint)
    output = block("output", directories.output, mirrors_deletes=False)
    return (inputs, checkpoint), (checkpoint, output), (output,)


def _as_folder(prefix: str) -> str:
    return prefix if prefix.endswith("/") or not prefix else prefix + "/"
