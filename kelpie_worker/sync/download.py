"""Downloads everything in `sync.before` before the command starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.checkpoints.verify import (
    Comparison,
    compare,
    recovered,
    unless_replaced,
    unreported,
    with_versions,
)
from kelpie_worker.job import Job, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import NotThere, StorageUnreachable
from kelpie_worker.s3.objects import RemoteFile
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry, sleep, tries
from kelpie_worker.transfer.compression import gunzipped
from kelpie_worker.workspace.file_version import Signature, signature_of
from kelpie_worker.workspace.paths import (
    is_inside,
    is_kelpies,
    landing_path,
    own_name,
    places_of,
    stays_inside,
)
from kelpie_worker.workspace.pattern import matcher

_FILES_AT_ONCE = 8
_MOST_LISTINGS = 6
_HADOOPS_FOLDER = "_$folder$"  # an empty object whose key ends so marks a folder, too
_BETWEEN_LISTINGS = Backoff(0.5, 5.0)


class ListedAndGone(StorageUnreachable):
    """An object was listed, and was gone when it was asked for."""


class PathConflict(Exception):
    """Two keys cannot both be files on a disk: one would have to be the directory of the other."""


@dataclass(frozen=True)
class DownloadResult:
    """What a download left on the disk. The mappings are by absolute path."""

    versions: dict[str, Signature]  # of the files whose objects are current versions
    bytes: int  # received
    objects: dict[str, StoredObject]  # the objects of these files
    origins: dict[str, ObjectKey]  # the objects that all files were downloaded from
    checkpoint: Comparison


def download(
    job: Job,
    storage: Storage,
    busy: Callable[[Iterable[str]], None],
    own_files: frozenset[str] = frozenset(),
    pause: Callable[[float], object] = sleep,
) -> DownloadResult:
    """Download every file of the job, but none over `own_files`, which are Kelpie's.

    `busy` is called with the paths that are being downloaded.

    The first file that fails ends it. If one was deleted after it was listed, all is listed and compared again:
    what is left may be another checkpoint. Raises the storage's errors, OSError, NotPacked, PathConflict.
    """
    brought: dict[str, DownloadedFile] = {}
    return retry(
        lambda: _download_listed(job, storage, busy, own_files, brought),
        on=ListedAndGone,
        backoff=_BETWEEN_LISTINGS,
        pause=pause,
        until=tries(_MOST_LISTINGS),
        on_failure=lambda failure: logs.warn("listed_again", job, detail=str(failure.error)),
    )


def _download_listed(
    job: Job,
    storage: Storage,
    busy: Callable[[Iterable[str]], None],
    own_files: frozenset[str],
    brought: dict[str, DownloadedFile],
) -> DownloadResult:
    """List, compare and download. `brought` has the files of an earlier listing, and gets those of this one."""
    received = _Received()
    listings = [(block, list(storage.files(block.bucket, block.prefix))) for block in job.before]
    checkpoint = recovered(job, unreported(job, compare(job, listings), listings, storage), storage)
    job = replace(job, checkpoint=checkpoint.whole or job.checkpoint)
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="download") as pool:
        try:
            # Block after block: if two have the same file, the later block's is the one that the job means.
            for block, listing in listings:
                planned = _wanted(job, block, with_versions((block, listing), checkpoint.instead), own_files)
                wanted = without_old_shapes(one_for_each_path(planned, job, block), job, block)
                _forget_what_is_gone(brought, block, wanted)
                busy(plan.path for plan in wanted)
                bring = partial(_bring, bucket=block.bucket, storage=storage, brought=brought)
                for file in tuple(pool.map(bring, wanted)):  # none is noted if one fails
                    received.note(file)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            busy(())
    return received.result(unless_replaced(checkpoint, job, received.replaced))


@dataclass
class _Received:
    """What was downloaded so far, by absolute path. A later block's file takes the place of an earlier one's."""

    versions: dict[str, Signature] = field(default_factory=dict)
    objects: dict[str, StoredObject] = field(default_factory=dict)
    origins: dict[str, ObjectKey] = field(default_factory=dict)
    replaced: list[StoredObject] = field(default_factory=list)
    size: int = 0  # bytes in all

    def note(self, file: DownloadedFile) -> None:
        self.size += file.remote.size
        self.origins[file.path] = file.object.place
        if file.was_replaced:
            self.replaced.append(file.object)
        # An older version was downloaded, which is not the bucket's current one: not recorded as sent, it is new
        # to the watch, which uploads it again.
        if file.remote.version_id:
            self.versions.pop(file.path, None)
            self.objects.pop(file.path, None)
        else:
            self.versions[file.path] = file.version
            self.objects[file.path] = file.object

    def result(self, checkpoint: Comparison) -> DownloadResult:
        return DownloadResult(self.versions, self.size, self.objects, self.origins, checkpoint)


@dataclass(frozen=True)
class PlannedDownload:
    """An object, and the absolute path that it is to be downloaded to."""

    remote: RemoteFile
    path: str
    packed: bool


@dataclass(frozen=True)
class DownloadedFile:
    """One file that was downloaded. Its object may have been replaced after it was listed."""

    path: str
    version: Signature
    remote: RemoteFile
    object: StoredObject
    was_replaced: bool
    listed: RemoteFile

    def is_still(self, bucket: str, listed: RemoteFile) -> bool:
        """Whether a later listing shows the same object, and its file is as it was downloaded."""
        same = (self.object.bucket, self.listed) == (bucket, listed) and not self.was_replaced and listed.etag
        return bool(same) and Path(self.path).exists() and signature_of(Path(self.path).stat()) == self.version


def _wanted(
    job: Job, block: SyncBlock, listing: Iterable[RemoteFile], own_files: frozenset[str]
) -> Iterator[PlannedDownload]:
    matches = matcher(block.pattern)
    own_places = places_of(own_files)
    for remote in listing:
        if remote.key.endswith("/") or not matches(remote.key):
            continue  # a key that ends in a slash only marks a folder
        if remote.key.endswith(_HADOOPS_FOLDER) and not remote.size:
            continue
        packed = job.compression and remote.key.endswith(".gz")
        relative = remote.key.removeprefix(block.prefix)
        path = landing_path(block.local_path, relative.removesuffix(".gz") if packed else relative)
        if path is None or not stays_inside(path, block.local_path):
            logs.warn("key_refused", job, key=remote.key, detail="it would land outside of local_path")
            continue
        if is_kelpies(path, block.local_path, own_places):
            logs.warn(
                "key_refused", job, key=remote.key, detail="it would take the place of a file of Kelpie's own"
            )
            continue
        yield PlannedDownload(remote, path, packed)


def one_for_each_path(planned: Iterable[PlannedDownload], job: Job, block: SyncBlock) -> list[PlannedDownload]:
    """One download for each path.

    Of keys that mean one file (`a.gz` and `a`, `a/b` and `a//b`), the highest ranked.
    """
    rank = _ranking(job, block)
    chosen: dict[str, PlannedDownload] = {}
    for plan in planned:
        best, other = plan, chosen.get(plan.path)
        if other:
            best, other = (plan, other) if rank(plan) > rank(other) else (other, plan)
            logs.warn("key_skipped", job, key=other.remote.key, because=f"{best.remote.key} is the same file here")
        chosen[plan.path] = best
    return list(chosen.values())


def without_old_shapes(planned: Iterable[PlannedDownload], job: Job, block: SyncBlock) -> list[PlannedDownload]:
    """The downloads without a file that the command replaced by a directory, or the other way round.

    Both keys exist if the worker ended before it deleted the old one. One is left out only if the last holder
    reported one of the two, or if the file is empty: some programs mark a folder by such an object (`data` beside
    `data/x`). Other keys that cannot be on one disk raise PathConflict later.
    """
    rank = _ranking(job, block)
    kept = {plan.path: plan for plan in planned}
    for path, within in sorted(_both_file_and_directory(kept, block.local_path).items()):
        file, inner = kept.get(path), [plan for plan in within if plan.path in kept]
        if file is None or not inner:
            continue
        best = max(file, *inner, key=rank)
        if best.remote.key not in {stored.key for stored in job.checkpoint if stored.bucket == block.bucket}:
            if file.remote.size:
                continue
            best = inner[0]
        for old in inner if best is file else [file]:
            logs.warn("key_skipped", job, key=old.remote.key, because=f"{best.remote.key} took its place")
            del kept[old.path]
    return list(kept.values())


def _both_file_and_directory(
    planned: Mapping[str, PlannedDownload], local_path: str
) -> dict[str, list[PlannedDownload]]:
    """{path: downloads below it}, for each path that would be a file and a directory."""
    found: dict[str, list[PlannedDownload]] = {}
    for plan in planned.values():
        above = plan.path.rpartition("/")[0]
        while len(above) > len(local_path):
            if above in planned:
                found.setdefault(above, []).append(plan)
            above = above.rpartition("/")[0]
    return found


def _ranking(job: Job, block: SyncBlock) -> Callable[[PlannedDownload], tuple[bool, float, bool, str]]:
    """A sort key: highest is what the last holder reported, then the younger, then what this job would upload."""
    manifest = {stored.place for stored in job.checkpoint}

    def rank(plan: PlannedDownload) -> tuple[bool, float, bool, str]:
        remote = plan.remote
        return (block.bucket, remote.key) in manifest, remote.modified, plan.packed, remote.key

    return rank


def _forget_what_is_gone(
    brought: dict[str, DownloadedFile], block: SyncBlock, wanted: Iterable[PlannedDownload]
) -> None:
    """Delete the files of an earlier listing that this one has not."""
    still = {plan.path for plan in wanted}
    for path in [path for path in brought if is_inside(path, block.local_path) and path not in still]:
        if brought.pop(path).object.bucket == block.bucket:
            Path(path).unlink(missing_ok=True)


def _bring(
    plan: PlannedDownload, bucket: str, storage: Storage, brought: dict[str, DownloadedFile]
) -> DownloadedFile:
    """Download under a temporary name, then rename: the command never sees half a file."""
    earlier = brought.get(plan.path)
    if earlier and earlier.is_still(bucket, plan.remote):
        return earlier
    final = Path(plan.path)
    try:
        if not final.parent.is_dir():
            final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PathConflict(
            f"{plan.remote.key} needs a directory where there is a file: {error.filename}"
        ) from error
    temporary = final.with_name(own_name("part"))
    try:
        remote = storage.fetch(bucket, plan.remote.key, temporary, plan.remote)
        if plan.packed:
            temporary = gunzipped(temporary, plan.remote.key)
        temporary.replace(final)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, IsADirectoryError):
            raise PathConflict(f"{plan.remote.key} would lie where there is a directory: {final}") from error
        if isinstance(error, NotThere):
            raise ListedAndGone(
                f"{bucket}/{plan.remote.key} is listed, and not there when it is asked for"
            ) from error
        raise
    stored = StoredObject(bucket, remote.key, remote.size, remote.etag)
    replaced = (remote.size, remote.etag) != (plan.remote.size, plan.remote.etag or remote.etag)
    file = DownloadedFile(plan.path, signature_of(final.stat()), remote, stored, replaced, plan.remote)
    brought[plan.path] = file
    return file
