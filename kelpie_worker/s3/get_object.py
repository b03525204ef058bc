"""Download one object to a file, verified by its size, its ETag and, where the bucket has them, its MD5."""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kelpie_worker import logs
from kelpie_worker.s3.answers import Answer, of_boto
from kelpie_worker.s3.encodings import accepting_gzip, is_packed
from kelpie_worker.s3.errors import Changed, NotTheListed, StorageUnreachable
from kelpie_worker.s3.fast_path import NoFastPath
from kelpie_worker.s3.objects import RemoteFile, bare
from kelpie_worker.s3.ranged_get import LARGE, TAKEN_UNMARKED, NotTheRange, RangedGet
from kelpie_worker.s3.receiving import new_file, received_into
from kelpie_worker.s3.retrying import Calls
from kelpie_worker.s3.whose_fault import Asked, describes_object

_MD5 = re.compile("[0-9a-f]{32}")


class Downloads:
    """The downloads of one attempt. `list_now` shows an object as a listing has it now."""

    def __init__(self, calls: Calls, list_now: Callable[[str, str], RemoteFile | None]) -> None:
        self._calls = calls
        self._list_now = list_now
        self._shared = calls.shared

    def fetch(self, bucket: str, key: str, path: Path, listed: RemoteFile | None = None) -> RemoteFile:
        """Download an object into a new file; returns what was received. Raises OSError too.

        A truncated body counts as no answer. So does a body of another size than `listed`, unless the answer has
        another ETag, and another listing shows that the object was replaced. A large object is downloaded in
        ranges at the same time, if the server supports ranges.
        """
        listed = listed or RemoteFile(key, -1)
        version = {"VersionId": listed.version_id} if listed.version_id else {}
        which: dict[str, Any] = {"Bucket": bucket, "Key": key} | version
        what = f"downloading {bucket}/{key}"
        takes_unmarked = listed.size >= TAKEN_UNMARKED
        ranges = self._shared.sends_ranges if takes_unmarked else self._shared.answers_ranges
        if listed.size >= LARGE and ranges.of(bucket) is not False:
            try:
                fetched = self._identified(
                    bucket, listed, *self._fetch_in_ranges(which, path, what, takes_unmarked)
                )
                ranges.saw(bucket, True)
                return fetched
            except NotTheRange as error:
                if error.first:
                    ranges.saw(bucket, False)
            except NotTheListed as error:
                logs.warn("download_repeated", key=key, detail=str(error))
        accepted = is_packed(key)

        def once() -> RemoteFile:
            nonlocal accepted
            try:
                with accepting_gzip(accepted):
                    return self._fetch_once(which, path, listed)
            except NotTheListed:
                accepted = not accepted  # it may have been packed or unpacked on its way
                raise

        return self._calls.repeated(what, once)

    def _fetch_in_ranges(
        self, which: dict[str, Any], path: Path, what: str, takes_unmarked: bool
    ) -> tuple[int, str]:
        def get_range(first: int, last: int, etag: str | None) -> Answer:
            return self._open(which, (first, last), f'"{etag}"' if etag else None)

        with new_file(path) as descriptor:
            try:
                return RangedGet(
                    get_range,
                    partial(self._calls.repeated, what, asked=Asked.VERSION),
                    self._calls.lease.check,
                    descriptor,
                    takes_unmarked,
                ).fetch()
            except Changed as error:
                raise NotTheRange(first=False) from error

    def _fetch_once(self, which: dict[str, Any], path: Path, listed: RemoteFile) -> RemoteFile:
        with closing(self._open(which)) as answer:
            etag = answer.headers.get("etag", "")
            is_listed = bare(etag) == listed.etag != ""
            if not is_listed and not describes_object(answer.headers, listed.key):
                raise StorageUnreachable(
                    f"downloading {listed.key}: an answer that the storage has not given, as if from a proxy"
                )
            comparable = may_be_md5(bare(etag) or listed.etag, answer.headers)
            received, md5 = received_into(path, answer, self._calls.lease.check, comparable)
        downloaded = self._identified(which["Bucket"], listed, received, etag)
        if comparable:
            self._compare(which["Bucket"], downloaded, md5)
        return downloaded

    def _open(self, which: dict[str, Any], ends: tuple[int, int] | None = None, etag: str | None = None) -> Answer:
        """Ask for an object, or for its bytes from the first to the last of `ends` if it has that ETag."""
        try:
            if which.keys() != {"Bucket", "Key"}:
                raise NoFastPath
            if ends is None:
                return self._shared.fast_path.get(which["Bucket"], which["Key"])
            condition = {"If-Match": etag} if etag else {}
            return self._shared.fast_path.get_range(which["Bucket"], which["Key"], *ends, condition)
        except NoFastPath:
            part: dict[str, Any] = {"Range": f"bytes={ends[0]}-{ends[1]}"} if ends else {}
            same: dict[str, Any] = {"IfMatch": etag} if etag else {}
            return of_boto(self._calls.client.get_object(**which, **part, **same))

    def _identified(self, bucket: str, listed: RemoteFile, size: int, etag: str) -> RemoteFile:
        """`listed` with the size and ETag that were received. Raises NotTheListed: it is not that object.

        A page of a proxy has an ETag, too. So another one than the listed one is looked up in a listing.
        """
        etag = bare(etag)
        if etag and listed.etag and etag != listed.etag and not listed.version_id:
            now = self._list_now(bucket, listed.key)
            if now and now.etag != listed.etag:
                listed = now  # it was replaced meanwhile
            elif now and now.size in (-1, size):
                etag = listed.etag  # the same object, which this storage gives two ETags
        if listed.size not in (-1, size):
            raise NotTheListed(f"downloading {listed.key}: {size} bytes came of {listed.size}")
        return replace(listed, size=size, etag=etag or listed.etag)

    def _compare(self, bucket: str, downloaded: RemoteFile, md5: str) -> None:
        """Raises StorageUnreachable if the ETag is not the content's MD5, in a bucket where it was so before.

        Not all storage uses the MD5 as ETag, so a mismatch in a bucket where none was seen proves nothing.
        """
        if downloaded.etag == md5:
            self._shared.etag_is_md5.saw(bucket, True)
        elif self._shared.etag_is_md5.of(bucket):
            raise StorageUnreachable(f"downloading {bucket}/{downloaded.key}: its content is not that of its ETag")


def may_be_md5(etag: str, headers: Mapping[str, str]) -> bool:
    """Whether this ETag can be the content's MD5. Encrypted with a KMS or customer key, it only looks like one."""
    foreign_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return bool(_MD5.fullmatch(etag)) and not foreign_key and not kms
