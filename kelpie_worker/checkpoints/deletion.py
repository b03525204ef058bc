"""Deletes the objects of files that the command has removed, if they are this attempt's to delete."""

from collections.abc import Callable, Iterable
from functools import partial

from kelpie_worker import logs
from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.tracked_files import TrackedFile, TrackedFiles
from kelpie_worker.job import Job, ObjectKey, SyncBlock
from kelpie_worker.s3.errors import StorageRefused


class Deletions:
    """The deletions of one block.

    `sent_before`: an earlier uploader of this attempt uploaded from its directory.
    """

    def __init__(
        self,
        job: Job,
        block: SyncBlock,
        fence: Fence,
        overlaps: Overlaps,
        key_of: Callable[[str], ObjectKey],
        sent_before: bool,
    ) -> None:
        self._job = job
        self._block = block
        self._fence = fence
        self._overlaps = overlaps
        self._key_of = key_of
        self._sent_before = sent_before

    def delete(self, paths: Iterable[str], files: TrackedFiles, final: bool) -> None:
        """Delete the objects of these files, and forget the files. Raises StorageUnreachable, Cancelled."""
        deleted = 0
        for path in paths:
            for place in self._objects_of(path, files[path]):
                deleted += self._delete(place, path, files[path], final)
            stays = files[path].stored
            del files[path]
            if stays:
                files[path].stored = stays
        if deleted:
            logs.info("checkpoint_deleted", self._job, files=deleted)

    def _delete(self, place: ObjectKey, path: str, file: TrackedFile, final: bool) -> bool:
        try:
            is_deleted = self._fence.delete(place, partial(self._overlaps.have, self._block, path, final))
        except StorageRefused as error:  # a bucket may allow writing only; nothing is lost by what stays
            logs.warn("delete_refused", self._job, key=place[1], detail=str(error))
            return False
        if file.stored and file.stored.place == place:
            file.stored = file.sent = file.uploaded = None
        return is_deleted

    def _objects_of(self, path: str, file: TrackedFile) -> set[ObjectKey]:
        """The objects that this attempt downloaded the file from, or uploaded it to; no others are its own.

        They may differ: a file `a` may come from `a` and be uploaded to `a.gz`, or `x/y` come from `x//y`. What an
        earlier uploader sent is not recorded: in a directory that it sent from, every file that was not downloaded
        counts as sent.
        """
        bucket, key = file.origin or ("", "")
        brought = file.origin is not None and bucket == self._block.bucket and key.startswith(self._block.prefix)
        sent = file.uploaded is not None or (self._sent_before and file.origin is None)
        return ({(bucket, key)} if brought else set()) | ({self._key_of(path)} if sent else set())
