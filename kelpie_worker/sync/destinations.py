"""The buckets that a job uploads to: one that is not there is found before hours are computed for nothing."""

from kelpie_worker import logs
from kelpie_worker.job import Job
from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.errors import StorageRefused, StorageUnreachable
from kelpie_worker.s3.whose_fault import When
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry
from kelpie_worker.transfer.refusal_limit import Patience

_BETWEEN_LOOKS = Backoff(first=1.0, longest=30.0)


class Destinations:
    """The buckets of one job's uploads, each looked at until storage has answered for it once.

    Those that the job downloads from are listed anyway.
    """

    def __init__(self, job: Job, storage: Storage, lease: Lease) -> None:
        listed = {block.bucket for block in job.before}
        self._job, self._storage, self._lease = job, storage, lease
        self._unseen = {
            block.bucket: block.prefix for block in (*job.during, *job.after) if block.bucket not in listed
        }

    @property
    def all_seen(self) -> bool:
        return not self._unseen

    def look(self) -> None:
        """Look at the buckets once, before the command starts. If storage is away, the job starts nevertheless.

        Raises NoDestination for one where nothing may be stored, Misconfigured.
        """
        for bucket in list(self._unseen):
            try:
                self._see(bucket)
            except StorageUnreachable as error:
                logs.warn("bucket_not_looked_at", self._job, bucket=bucket, detail=str(error))

    def await_all(self) -> None:
        """Look at the buckets until storage has answered for each, while the command runs.

        Raises NoDestination or Misconfigured once it is clear that this is no passing answer; Cancelled.
        """
        for bucket in list(self._unseen):
            self._await(bucket)

    def _await(self, bucket: str) -> None:
        retry(
            lambda: self._see(bucket),
            on=(StorageUnreachable, StorageRefused),
            backoff=_BETWEEN_LOOKS,
            pause=self._lease.pause,
            until=Patience(When.WHILE).has_ended,
        )

    def _see(self, bucket: str) -> None:
        self._storage.demand_destination(bucket, self._unseen[bucket])
        del self._unseen[bucket]
