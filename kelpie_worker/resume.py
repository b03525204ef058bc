"""Whether the checkpoint in the bucket is the one that was reported whole: asked before it is downloaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kelpie_worker import logs
from kelpie_worker.job import CheckpointStatus, Job, StoredObject, SyncBlock
from kelpie_worker.pattern import matcher
from kelpie_worker.storage import RemoteFile

Listing = tuple[SyncBlock, list[RemoteFile]]
_NAMED = 3  # keys, in the sentence that says what is wrong


@dataclass(frozen=True)
class Comparison:
    """`detail` says what is torn."""

    status: CheckpointStatus
    detail: str = ""


def compare(job: Job, listings: Sequence[Listing]) -> Comparison:
    """Compare the job's newest manifest with what the bucket lists.

    Clean: every object of it is there, in that version, and nothing younger lies where checkpoints do. Torn is
    said also of what may be whole, such as a generation that was committed and could not be reported any more;
    never the other way round. None: there is no manifest, or nothing of it is downloaded.
    """
    listed = {(block.bucket, remote.key): remote for block, files in listings for remote in files}
    manifest = [stored for stored in job.checkpoint if any(_covers(block, stored) for block, _ in listings)]
    if not manifest:
        return Comparison(CheckpointStatus.NONE)
    wrong = [*_differing(manifest, listed), *_unreported(job, manifest, listed)]
    if not wrong:
        return Comparison(CheckpointStatus.CLEAN)
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    detail = f"{', '.join(wrong[:_NAMED])}{more}"[:1000]
    logs.warn("checkpoint_torn", job, detail=detail)
    return Comparison(CheckpointStatus.TORN, detail)


def _covers(block: SyncBlock, stored: StoredObject) -> bool:
    return block.bucket == stored.bucket and stored.key.startswith(block.prefix)


def _differing(manifest: Sequence[StoredObject], listed: dict[tuple[str, str], RemoteFile]) -> Iterator[str]:
    for stored in manifest:
        remote = listed.get((stored.bucket, stored.key))
        if remote is None:
            yield f"{stored.key} is missing"
        elif remote.size != stored.size or (stored.etag and remote.etag and remote.etag != stored.etag):
            yield f"{stored.key} is another version"


def _unreported(
    job: Job, manifest: Sequence[StoredObject], listed: dict[tuple[str, str], RemoteFile]
) -> Iterator[str]:
    """What is younger than all that was reported, where checkpoints lie: a part of the next generation."""
    reported = {(stored.bucket, stored.key) for stored in manifest}
    newest = max((listed[place].modified for place in reported if place in listed), default=0.0)
    blocks = [(block, matcher(block.pattern)) for block in job.during if block.mirrors_deletes]
    for (bucket, key), remote in listed.items():
        if remote.modified <= newest or (bucket, key) in reported or key.endswith("/"):
            continue
        name = key.removesuffix(".gz") if job.compression else key
        if any(
            block.bucket == bucket and name.startswith(block.prefix) and matches(name.removeprefix(block.prefix))
            for block, matches in blocks
        ):
            yield f"{key} was never reported"
