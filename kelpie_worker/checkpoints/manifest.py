"""The manifest of a job's checkpoint: what the last whole generations of all its directories are in the bucket."""

from __future__ import annotations

import threading

from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.watch import Checkpoints
from kelpie_worker.job import Manifest, ObjectKey, StoredObject
from kelpie_worker.limits import MOST_CHECKPOINT_FILES
from kelpie_worker.messages import Committed
from kelpie_worker.processes.child import Tell
from kelpie_worker.s3.objects import Version


class JobManifest:
    """Sends the manifest of all watches of a job each time one of them has committed a whole generation."""

    def __init__(self, claim_id: str, tell: Tell, fence: Fence) -> None:
        self.watches: list[Checkpoints] = []
        self._claim_id = claim_id
        self._tell = tell
        self._fence = fence
        self._generation = 0
        self._lock = threading.Lock()

    def tell(self, looked: float) -> None:
        """Send a Committed message with the next number. Watches call this from their threads.

        `looked` (CLOCK_BOOTTIME) is when the watch looked at its directory.
        """
        with self._lock:
            self._generation += 1
            manifest = self._manifest()
            if len(manifest) > MOST_CHECKPOINT_FILES:
                manifest = ()  # the coordinator would refuse it, and keep an older one
            self._tell(Committed(self._claim_id, self._generation, manifest, looked))

    def _manifest(self) -> Manifest:
        """Each object once. If several watches have written the same key, the object that is there now.

        If that is in no watch's generation, the next one has begun: any is listed, and a comparison will find that
        the bucket has another version.
        """
        objects: dict[ObjectKey, StoredObject] = {}
        for stored in (stored for watch in self.watches for stored in watch.whole):
            if stored.place not in objects or not self._fence.is_overwritten(stored.place, Version(stored.etag)):
                objects[stored.place] = stored
        return tuple(objects.values())
