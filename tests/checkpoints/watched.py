"""A directory under watch, without the worker around it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kelpie_worker.checkpoints.fence import Fence
from kelpie_worker.checkpoints.overlaps import Overlaps
from kelpie_worker.checkpoints.tracked_files import DirectoryHistory
from kelpie_worker.checkpoints.watch import Checkpoints, WatchCallbacks, WatchContext
from kelpie_worker.config import WatchTimes
from kelpie_worker.job import Job, StoredObject, SyncBlock
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.system.linux import boottime
from kelpie_worker.transfer.file_upload import Transfer
from kelpie_worker.workspace.file_version import Snapshot
from kelpie_worker.workspace.paths import own_name
from local_stack.s3 import S3Server

TIMES = WatchTimes(debounce=0, stability=0.02, max_wait=0.5)


class Watched:
    """A directory under watch, as the uploader would set it up, with the lease in the test's hands."""

    def __init__(
        self,
        folder: Path,
        bucket: str,
        brought: Snapshot | None = None,
        safe_for: float = 3600,
        objects: Mapping[str, StoredObject] | None = None,
        origins: Mapping[str, str] | None = None,
        sent: bool = False,
        refused: Callable[[Any], None] = lambda refusal: None,
        is_untouched: bool = False,
        is_of_another_boot: bool = False,
        **block: Any,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.lease = Lease()
        self.lease.renew(boottime() + safe_for)
        job = Job("claim", "job")
        self.transfer = Transfer(Storage(SharedClient(None), self.lease, max_retries=2), compression=False)
        self.doubt: Callable[[], None] = lambda: None  # asks for a heartbeat
        fence = Fence(job, self.transfer.storage, self.lease, lambda: self.doubt())
        keys = origins or {path: f"c/{path}" for path in brought or ()}
        context = WatchContext(job, self.transfer, self.lease, fence, Overlaps(job), TIMES, frozenset())
        self.checkpoints = Checkpoints(
            context,
            SyncBlock(bucket, "c/", str(folder), **block),
            os.path.realpath(folder),
            DirectoryHistory(
                brought or {},
                objects or {},
                {path: (bucket, key) for path, key in keys.items()},
                sent,
                is_untouched,
                is_of_another_boot,
            ),
            WatchCallbacks(busy=lambda paths: None, committed=lambda looked: None, refused=refused),
        )

    def write(self, name: str, content: bytes) -> None:
        """By temporary file and rename, as careful writers do."""
        draft = self.folder / own_name("draft", str(threading.get_ident()))
        draft.write_bytes(content)
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        draft.rename(self.folder / name)


def keys_of(s3: S3Server, bucket: str) -> dict[str, bytes]:
    return s3.files(bucket, "c/")
