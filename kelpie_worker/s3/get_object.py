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
from kelpie_worker.s3.objects import RemoteFile, bare, date_in, is_of_date
from kelpie_worker.s3.ranged_get import LARGE, TAKEN_UNMARKED, NotTheRange, RangedGet
from kelpie_worker.s3.receiving import new_file, received_into
from kelpie_worker.s3.retrying import Calls
from kelpie_worker.s3.whose_fault import Asked, describes_object

_WHOLE = 200
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
                headers, size = self._fetch_in_ranges(which, path, what, takes_unmarked)
                fetched = self._identified(bucket, listed, headers, size)
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
    ) -> tuple[Mapping[str, str], int]:
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
            etag = bare(answer.headers.get("etag", ""))
            if answer.status != _WHOLE:
                raise StorageUnreachable(f"downloading {listed.key}: {answer.status} came in place of all of it")
            if not _is_as_listed(answer, listed) and not describes_object(answer.headers, listed.key):
                raise StorageUnreachable(
                    f"downloading {listed.key}: an answer that the storage has not given, as if from a proxy"
                )
            comparable = may_be_md5(etag or listed.etag, answer.headers)
            received, md5 = received_into(path, answer, self._calls.lease.check, comparable)
        downloaded = self._identified(which["Bucket"], listed, answer.headers, received)
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

    def _identified(self, bucket: str, listed: RemoteFile, headers: Mapping[str, str], size: int) -> RemoteFile:
        """`listed` with the size and ETag that were received. Raises NotTheListed: it is not that object."""
        etag = bare(headers.get("etag", ""))
        if listed.etag and not listed.version_id and etag != listed.etag:
            listed = self._looked_up(bucket, listed, headers)
        elif etag:
            listed = replace(listed, etag=etag)
        if listed.size not in (-1, size):
            raise NotTheListed(f"downloading {listed.key}: {size} bytes came of {listed.size}")
        return replace(listed, size=size)

    def _looked_up(self, bucket: str, listed: RemoteFile, headers: Mapping[str, str]) -> RemoteFile:
        """What a listing shows now of an object that came with another ETag than it was listed with, or none.

        It has the ETag that came if it was replaced meanwhile, also where the listing shows that later. Raises
        StorageUnreachable for what is older than the listing shows: something in between kept it, or a part of the
        storage is not up to date. A page of a proxy has an ETag, too; without one it is not known what came.
        """
        etag, dated = bare(headers.get("etag", "")), date_in(headers, "last-modified")
        now = self._list_now(bucket, listed.key)
        if now is None:
            return replace(listed, etag=etag or listed.etag)
        is_of_now = not now.modified or dated is None or is_of_date(headers, now.modified)
        if dated is not None and dated < now.modified and not is_of_now:
            raise StorageUnreachable(f"downloading {listed.key}: an older version of it came")
        if is_of_now and now.etag == listed.etag:
            return now  # also where this storage gives an object two ETags
        if not etag:
            raise StorageUnreachable(f"downloading {listed.key}: it was replaced, and came without an ETag")
        return replace(now, etag=etag)

    def _compare(self, bucket: str, downloaded: RemoteFile, md5: str) -> None:
        """Raises StorageUnreachable if the ETag is not the content's MD5, in a bucket where it was so before.

        Not all storage uses the MD5 as ETag, so a mismatch in a bucket where none was seen proves nothing.
        """
        if downloaded.etag == md5:
            self._shared.etag_is_md5.saw(bucket, True)
        elif self._shared.etag_is_md5.of(bucket):
            raise StorageUnreachable(f"downloading {bucket}/{downloaded.key}: its content is not that of its ETag")


def _is_as_listed(answer: Answer, listed: RemoteFile) -> bool:
    """Whether it is the listed object for certain, also if it looks like a page: objects may be pages of HTML."""
    if not listed.etag:
        return False
    if etag := bare(answer.headers.get("etag", "")):
        return etag == listed.etag
    return answer.headers.get("content-length") == str(listed.size) and is_of_date(answer.headers, listed.modified)


def may_be_md5(etag: str, headers: Mapping[str, str]) -> bool:
    """Whether this ETag can be the content's MD5. Encrypted with a KMS or customer key, it only looks like one."""
    foreign_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return bool(_MD5.fullmatch(etag)) and not foreign_key and not kms
