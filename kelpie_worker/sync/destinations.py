"""Where a job uploads to: a bucket that is not there, or a key that may not write, is found before the compute."""

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import StorageRefused, StorageUnreachable
from kelpie_worker.s3.whose_fault import When
from kelpie_worker.sync.likely_names import likely_names
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry
from kelpie_worker.transfer.refusal_limit import Patience

_BETWEEN_LOOKS = Backoff(first=1.0, longest=30.0)


class Destinations:
    """The buckets and prefixes of one job's uploads, each looked at until storage has answered for it once."""

    def __init__(self, job: Job, storage: Storage, lease: Lease) -> None:
        self._job, self._storage, self._lease = job, storage, lease
        # Prefix by prefix, for a key may open one of a bucket's and not another.
        self._unseen: dict[tuple[str, str], list[str]] = {}  # with the names that files may have there
        for block in (*job.during, *job.after):
            self._unseen.setdefault((block.bucket, block.prefix), []).extend(likely_names(job, block))

    @property
    def all_seen(self) -> bool:
        return not self._unseen

    def look(self) -> None:
        """Look at each once, before the command starts. If storage is away, the job starts nevertheless.

        Raises NoDestination for one where nothing may be stored, Misconfigured.
        """
        for place in list(self._unseen):
            try:
                self._see(place)
            except StorageUnreachable as error:
                bucket, prefix = place
                logs.warn("bucket_not_looked_at", self._job, bucket=bucket, prefix=prefix, detail=str(error))

    def await_all(self) -> None:
        """Look at each until storage has answered for all, while the command runs.

        Raises NoDestination or Misconfigured once it is clear that this is no passing answer; Cancelled.
        """
        for place in list(self._unseen):
            self._await(place)

    def _await(self, place: tuple[str, str]) -> None:
        retry(
            lambda: self._see(place),
            on=(StorageUnreachable, StorageRefused),
            backoff=_BETWEEN_LOOKS,
            pause=self._lease.pause,
            until=Patience(When.WHILE).has_ended,
        )

    def _see(self, place: tuple[str, str]) -> None:
        self._storage.demand_destination(*place, self._unseen[place])
        del self._unseen[place]
