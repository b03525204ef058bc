"""Compares the checkpoint in the bucket with the last reported manifest, before it is downloaded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from kelpie_worker import logs
from kelpie_worker.checkpoints.generation_mark import MarkedObject, read_mark, unreported_whole
from kelpie_worker.checkpoints.mirror import MOST_FILES
from kelpie_worker.job import CheckpointStatus, Job, Manifest, ObjectKey, StoredObject, SyncBlock
from kelpie_worker.limits import LONGEST_DETAIL
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.objects import RemoteFile
from kelpie_worker.workspace.pattern import matcher

Listing = tuple[SyncBlock, list[RemoteFile]]
Listed = Mapping[ObjectKey, RemoteFile]
_LOOKS_AT_ONCE = 8
_NAMED = 3  # keys, in the sentence that says what is wrong


@dataclass(frozen=True)
class Comparison:
    """`detail` says what is torn. `instead` are older versions that make it whole again, if all are known.

    `whole` is what the checkpoint consists of, where that is not the newest manifest.
    """

    status: CheckpointStatus
    detail: str = ""
    instead: Manifest = ()
    whole: Manifest = ()


def compare(job: Job, listings: Sequence[Listing]) -> Comparison:
    """Compare the job's newest manifest with what the bucket lists.

    Clean: every object of it is there, in that version, and nothing as young as they are lies beside them. Torn
    is said also of what may be whole, such as a generation that was committed and could not be reported any
    more (see `unreported`); never the other way round. None: there is no manifest, or nothing of it is downloaded.
    """
    listed = {(block.bucket, remote.key): remote for block, files in listings for remote in files}
    manifest = _downloaded(job, listings)
    if not manifest:
        return Comparison(CheckpointStatus.NONE)
    differing = {stored: why for stored in manifest if (why := _difference(stored, listed))}
    unreported = list(_unreported(job, manifest, listed))
    wrong = [*differing.values(), *unreported]
    if not wrong:
        return Comparison(CheckpointStatus.CLEAN)
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    detail = f"{', '.join(wrong[:_NAMED])}{more}"[:LONGEST_DETAIL]
    # What was never reported stays where it is, so beside it older versions would be no whole either. And what
    # is missing was removed: by a user, perhaps, so that the job begins anew.
    known = not unreported and all(stored.version_id and stored.place in listed for stored in differing)
    return Comparison(CheckpointStatus.TORN, detail, tuple(differing) if known else ())


def unreported(job: Job, found: Comparison, listings: Sequence[Listing], storage: Storage) -> Comparison:
    """The comparison as clean, where the marks in the bucket show that what was never reported is whole.

    Sends a request for each object that differs from the manifest or is younger. Raises the storage's errors.
    """
    if found.status is not CheckpointStatus.TORN:
        return found
    whole = _found_whole(job, job.checkpoint_by, listings, storage) if job.checkpoint_by is not None else ()
    if not whole:
        logs.warn("checkpoint_torn", job, detail=found.detail)
        return found
    logs.info("checkpoint_found_whole", job, files=len(whole), detail=found.detail)
    detail = f"whole, though never reported: {found.detail}"[:LONGEST_DETAIL]
    return Comparison(CheckpointStatus.CLEAN, detail, whole=whole)


def _found_whole(job: Job, reported_by: int, listings: Sequence[Listing], storage: Storage) -> Manifest:
    listed = {(block.bucket, remote.key): remote for block, files in listings for remote in files}
    manifest = _downloaded(job, listings)
    unchanged = {stored: listed[stored.place].modified for stored in manifest if not _difference(stored, listed)}
    missing = [stored.key for stored in manifest if stored.place not in listed]
    reported = {stored.place for stored in manifest}
    looked_at = _others(job, reported, unchanged, listed)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="marks") as pool:
        others = list(pool.map(lambda place: _marked(place, listed[place], place in reported, storage), looked_at))
    return unreported_whole(reported_by, unchanged, missing, others)


def recovered(job: Job, found: Comparison, storage: Storage) -> Comparison:
    """The comparison as clean, with older versions to download, if the bucket still has all of them."""
    if not found.instead or not all(storage.has(stored) for stored in found.instead):
        return replace(found, instead=())
    logs.warn("checkpoint_brought_back", job, files=len(found.instead))
    return replace(
        found, status=CheckpointStatus.CLEAN, detail=f"older versions were brought back: {found.detail}"
    )


def unless_replaced(found: Comparison, job: Job, replaced: Sequence[StoredObject]) -> Comparison:
    """The comparison after the download: torn, if an object of the manifest was replaced meanwhile."""
    reported = {stored.place for stored in job.checkpoint}
    keys = [stored.key for stored in replaced if stored.place in reported]
    for stored in replaced:
        logs.warn("object_replaced", job, key=stored.key, etag=stored.etag)
    if not keys:
        return found
    detail = f"{', '.join(keys[:_NAMED])} changed while it was downloaded"
    logs.warn("checkpoint_torn", job, detail=detail)
    return replace(
        found, status=CheckpointStatus.TORN, detail=f"{detail}; {found.detail}".removesuffix("; ")[:LONGEST_DETAIL]
    )


def with_versions(listing: Listing, instead: Manifest) -> list[RemoteFile]:
    """The files of a block to download: the listed ones, replaced by older versions where there are some."""
    block, files = listing
    older = {
        stored.key: RemoteFile(stored.key, stored.size, stored.etag, version_id=stored.version_id)
        for stored in instead
        if _covers(block, stored)
    }
    return [*(remote for remote in files if remote.key not in older), *older.values()]


def _downloaded(job: Job, listings: Sequence[Listing]) -> list[StoredObject]:
    """What of the newest manifest lies under a listed prefix."""
    return [stored for stored in job.checkpoint if any(_covers(block, stored) for block, _ in listings)]


def _others(
    job: Job, reported: AbstractSet[ObjectKey], unchanged: Mapping[StoredObject, float], listed: Listed
) -> list[ObjectKey]:
    """What differs from the manifest, and the newest of what may have been committed after it."""
    differing = [place for place in (reported - {stored.place for stored in unchanged}) if place in listed]
    since = max(unchanged.values(), default=0.0)
    beside = (place for place in listed if place not in reported and listed[place].modified >= since)
    newest = sorted(_in_checkpoints(job, beside), key=lambda place: -listed[place].modified)
    return [*differing, *newest[:MOST_FILES]]


def _marked(place: ObjectKey, remote: RemoteFile, was_reported: bool, storage: Storage) -> MarkedObject:
    """An object with its mark; without one if it was replaced since it was listed."""
    described = storage.described(*place)
    if described is None or _difference(described[0], {place: remote}):
        listed = StoredObject(*place, remote.size, remote.etag)
        return MarkedObject(listed, remote.modified, None, was_reported)
    return MarkedObject(described[0], remote.modified, read_mark(described[1]), was_reported)


def _covers(block: SyncBlock, stored: StoredObject) -> bool:
    return block.bucket == stored.bucket and stored.key.startswith(block.prefix)


def _difference(stored: StoredObject, listed: Listed) -> str | None:
    remote = listed.get(stored.place)
    if remote is None:
        return f"{stored.key} is missing"
    if remote.size not in (-1, stored.size) or (stored.etag and remote.etag and remote.etag != stored.etag):
        return f"{stored.key} is another version"
    return None


def _unreported(job: Job, manifest: Sequence[StoredObject], listed: Listed) -> Iterator[str]:
    """Objects that may be part of a later, unreported generation.

    They are under a checkpoint's prefix, and not older than any reported one. "Not older" and not "younger",
    because listings have whole seconds only.
    """
    reported = {stored.place for stored in manifest}
    newest = max((listed[place].modified for place in reported if place in listed), default=0.0)
    beside = (place for place in listed if listed[place].modified >= newest and place not in reported)
    for _, key in _in_checkpoints(job, beside):
        yield f"{key} was never reported"


def _in_checkpoints(job: Job, places: Iterable[ObjectKey]) -> Iterator[ObjectKey]:
    """Those of these objects that are under a checkpoint's prefix and match its pattern."""
    blocks = [(block, matcher(block.pattern)) for block in job.during if block.mirrors_deletes]
    for bucket, key in places:
        name = key.removesuffix(".gz") if job.compression else key
        if not key.endswith("/") and any(
            block.bucket == bucket and name.startswith(block.prefix) and matches(name.removeprefix(block.prefix))
            for block, matches in blocks
        ):
            yield bucket, key
