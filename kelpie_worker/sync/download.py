"""Everything in `sync.before`, onto the disk, before the command starts."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.checkpoints.verify import Comparison, compare, recovered, unless_replaced, with_versions
from kelpie_worker.job import Job, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.objects import RemoteFile
from kelpie_worker.transfer.compression import gunzipped
from kelpie_worker.workspace.file_version import Signature, signature_of
from kelpie_worker.workspace.paths import is_inside, own_name
from kelpie_worker.workspace.pattern import matcher

_FILES_AT_ONCE = 8


class Collision(Exception):
    """Two keys cannot both be files here: one would have to be the directory of the other."""


@dataclass(frozen=True)
class Brought:
    """What a download left on the disk: the versions by absolute path, and what was received."""

    versions: dict[str, Signature]
    bytes: int
    objects: dict[str, StoredObject]  # that the files are still, by the absolute path they were brought to
    origins: dict[str, ObjectKey]  # of all files
    checkpoint: Comparison


def download(job: Job, storage: Storage, busy: Callable[[Iterable[str]], None]) -> Brought:
    """Bring every file of the job. `busy` is called with the paths that are under way.

    Any file that does not arrive ends it. Raises the storage's errors, OSError, NotPacked, Collision.
    """
    versions: dict[str, Signature] = {}
    objects: dict[str, StoredObject] = {}
    origins: dict[str, ObjectKey] = {}
    received, replaced = 0, list[StoredObject]()
    listings = [(block, list(storage.files(block.bucket, block.prefix))) for block in job.before]
    checkpoint = recovered(job, compare(job, listings), storage)
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="download") as pool:
        try:
            # Block after block: where two bring the same file, the later one is what the job means.
            for block, listing in listings:
                landings = _wanted(job, block, with_versions((block, listing), checkpoint.instead))
                wanted = without_old_shapes(one_for_each_path(landings, job, block), job, block)
                busy(landing.path for landing in wanted)
                arrivals = list(pool.map(partial(_bring, bucket=block.bucket, storage=storage), wanted))
                received += sum(arrival.remote.size for arrival in arrivals)
                replaced += [arrival.object for arrival in arrivals if arrival.was_replaced]
                for arrival in arrivals:
                    origins[arrival.path] = arrival.object.place
                    # The bucket shows something else than an older version: to the watch that is new, and it
                    # sends it again.
                    if arrival.remote.version_id:
                        versions.pop(arrival.path, None)
                        objects.pop(arrival.path, None)
                    else:
                        versions[arrival.path] = arrival.version
                        objects[arrival.path] = arrival.object
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            busy(())
    return Brought(versions, received, objects, origins, unless_replaced(checkpoint, job, replaced))


@dataclass(frozen=True)
class Landing:
    """An object and the absolute path it is brought to."""

    remote: RemoteFile
    path: str
    packed: bool


@dataclass(frozen=True)
class Arrival:
    """One file that was brought. Its object may have been replaced after it was listed."""

    path: str
    version: Signature
    remote: RemoteFile
    object: StoredObject
    was_replaced: bool


def landing_path(local_path: str, relative_key: str) -> str | None:
    """Where a key belongs below `local_path`; None if it would leave it, or names nothing.

    An absolute or doubled slash only separates; `..` is refused even where it would lead back.
    """
    names = [name for name in relative_key.split("/") if name not in ("", ".")]
    if not names or ".." in names or "\0" in relative_key:
        return None
    return str(Path(local_path, *names))


def _wanted(job: Job, block: SyncBlock, listing: Iterable[RemoteFile]) -> Iterator[Landing]:
    matches = matcher(block.pattern)
    for remote in listing:
        if remote.key.endswith("/") or not matches(remote.key):
            continue  # a key that ends in a slash only marks a folder
        packed = job.compression and remote.key.endswith(".gz")
        relative = remote.key.removeprefix(block.prefix)
        path = landing_path(block.local_path, relative.removesuffix(".gz") if packed else relative)
        if path is None or not _stays_inside(path, block.local_path):
            logs.warn("key_refused", job, key=remote.key, detail="it would land outside of local_path")
            continue
        yield Landing(remote, path, packed)


def one_for_each_path(landings: Iterable[Landing], job: Job, block: SyncBlock) -> list[Landing]:
    """Of the keys that mean one file, such as `a.gz` and `a`, or `a/b` and `a//b`, the one that is the job's."""
    rank = _ranking(job, block)
    chosen: dict[str, Landing] = {}
    for landing in landings:
        best, other = landing, chosen.get(landing.path)
        if other:
            best, other = (landing, other) if rank(landing) > rank(other) else (other, landing)
            logs.warn("key_skipped", job, key=other.remote.key, because=f"{best.remote.key} is the same file here")
        chosen[landing.path] = best
    return list(chosen.values())


def without_old_shapes(landings: Iterable[Landing], job: Job, block: SyncBlock) -> list[Landing]:
    """Without a file that the command replaced by a directory, or the other way round, before its key was deleted.

    Only where the last holder reported one of the two: of a job's inputs none is left out, and what cannot be on
    one disk is a Collision.
    """
    rank = _ranking(job, block)
    kept = {landing.path: landing for landing in landings}
    for path, within in sorted(_both_file_and_directory(kept, block.local_path).items()):
        file, inner = kept.get(path), [landing for landing in within if landing.path in kept]
        if file is None or not inner:
            continue
        best = max(file, *inner, key=rank)
        if best.remote.key not in {stored.key for stored in job.checkpoint if stored.bucket == block.bucket}:
            continue
        for old in inner if best is file else [file]:
            logs.warn("key_skipped", job, key=old.remote.key, because=f"{best.remote.key} took its place")
            del kept[old.path]
    return list(kept.values())


def _both_file_and_directory(landings: Mapping[str, Landing], local_path: str) -> dict[str, list[Landing]]:
    """The paths of files below which there are others, and those."""
    found: dict[str, list[Landing]] = {}
    for landing in landings.values():
        above = landing.path.rpartition("/")[0]
        while len(above) > len(local_path):
            if above in landings:
                found.setdefault(above, []).append(landing)
            above = above.rpartition("/")[0]
    return found


def _ranking(job: Job, block: SyncBlock) -> Callable[[Landing], tuple[bool, float, bool, str]]:
    """Highest is what the last holder reported, then what is younger, then what this job would send."""
    manifest = {stored.place for stored in job.checkpoint}

    def rank(landing: Landing) -> tuple[bool, float, bool, str]:
        remote = landing.remote
        return (block.bucket, remote.key) in manifest, remote.modified, landing.packed, remote.key

    return rank


def _stays_inside(path: str, local_path: str) -> bool:
    """Also where a link that lies in the directory already leads."""
    return is_inside(os.path.realpath(Path(path).parent), os.path.realpath(local_path))


def _bring(landing: Landing, bucket: str, storage: Storage) -> Arrival:
    """Download under a temporary name, then rename: the command never sees half a file."""
    final = Path(landing.path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise Collision(
            f"{landing.remote.key} needs a directory where there is a file: {error.filename}"
        ) from error
    temporary = final.with_name(own_name("part"))
    try:
        remote = storage.fetch(bucket, landing.remote.key, temporary, landing.remote)
        if landing.packed:
            temporary = gunzipped(temporary, landing.remote.key)
        temporary.replace(final)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, IsADirectoryError):
            raise Collision(f"{landing.remote.key} would lie where there is a directory: {final}") from error
        raise
    stored = StoredObject(bucket, remote.key, remote.size, remote.etag)
    replaced = (remote.size, remote.etag) != (landing.remote.size, landing.remote.etag or remote.etag)
    return Arrival(landing.path, signature_of(final.stat()), remote, stored, replaced)
