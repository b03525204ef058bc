"""One object onto the disk, whole, and what it was."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kelpie_worker import logs
from kelpie_worker.s3.errors import Changed, NotTheListed, StorageUnreachable
from kelpie_worker.s3.fast_path import AskBoto, check_bounds
from kelpie_worker.s3.objects import RemoteFile, bare
from kelpie_worker.s3.ranged_get import LARGE, NotTheRange, Ranges
from kelpie_worker.s3.retrying import Calls

_BLOCK = 1024 * 1024
_MD5 = re.compile("[0-9a-f]{32}")


class Fetching:
    """Of the objects of one attempt."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._shared = calls.shared

    def fetch(self, bucket: str, key: str, path: Path, listed: RemoteFile | None = None) -> RemoteFile:
        """Write an object to a new file; what was really brought. OSError.

        A truncated body counts as no answer, and so does one that is not the object that was `listed`, unless the
        answer names another ETag: then the object was replaced since. A large object comes in pieces at the same
        time, where the server can do that.
        """
        listed = listed or RemoteFile(key, -1)
        version = {"VersionId": listed.version_id} if listed.version_id else {}
        which: dict[str, Any] = {"Bucket": bucket, "Key": key} | version
        what = f"downloading {bucket}/{key}"
        if listed.size >= LARGE and self._shared.honours_ranges:
            try:
                return _identified(listed, *self._fetch_in_ranges(which, path, what))
            except NotTheRange as error:
                self._shared.honours_ranges = not error.first
            except NotTheListed as error:
                logs.warn("download_repeated", key=key, detail=str(error))
        return self._calls.repeated(what, lambda: self._fetch_once(which, path, listed))

    def _fetch_in_ranges(self, which: dict[str, Any], path: Path, what: str) -> tuple[int, str]:
        def ask(first: int, last: int, etag: str | None) -> Any:
            same: dict[str, Any] = {"IfMatch": etag} if etag else {}
            return self._calls.client.get_object(**which, **same, Range=f"bytes={first}-{last}")

        with path.open("wb") as file:
            try:
                return Ranges(
                    ask, partial(self._calls.repeated, what), self._calls.lease.check, file.fileno()
                ).fetch()
            except Changed as error:
                raise NotTheRange(first=False) from error

    def _fetch_once(self, which: dict[str, Any], path: Path, listed: RemoteFile) -> RemoteFile:
        opened, headers = self._open(which)
        facts = {name.lower(): value for name, value in headers.items()}
        received, digest = 0, hashlib.md5(usedforsecurity=False)
        comparable = may_be_md5(bare(facts.get("etag", "")), facts)
        with path.open("wb") as file:
            while block := opened.read(_BLOCK):
                self._calls.lease.check()
                file.write(block)
                if comparable:
                    digest.update(block)
                received += len(block)
        brought = _identified(listed, received, facts.get("etag", ""))
        if comparable:
            self._compare(which["Bucket"], brought, digest.hexdigest())
        return brought

    def _open(self, which: dict[str, Any]) -> tuple[Any, Mapping[str, str]]:
        try:
            if which.keys() != {"Bucket", "Key"}:
                raise AskBoto
            return self._shared.fast_path.get(which["Bucket"], which["Key"])
        except AskBoto:
            answer = self._calls.client.get_object(**which)
            headers = answer["ResponseMetadata"]["HTTPHeaders"]
            check_bounds(headers)
            return answer["Body"], headers

    def _compare(self, bucket: str, brought: RemoteFile, md5: str) -> None:
        """By the ETag, where this bucket was seen to give MD5 sums as such: not all storage does."""
        if brought.etag == md5:
            self._shared.gives_md5.add(bucket)
        elif bucket in self._shared.gives_md5:
            raise StorageUnreachable(f"downloading {bucket}/{brought.key}: its content is not that of its ETag")


def _identified(listed: RemoteFile, size: int, etag: str) -> RemoteFile:
    """What was brought. Raises NotTheListed if it claims to be that, and is not."""
    etag = bare(etag)
    replaced = etag and listed.etag and etag != listed.etag and not listed.version_id
    if listed.size not in (-1, size) and not replaced:
        raise NotTheListed(f"downloading {listed.key}: {size} bytes came of {listed.size}")
    return replace(listed, size=size, etag=etag or listed.etag)


def may_be_md5(etag: str, headers: Mapping[str, str]) -> bool:
    """With a key of KMS, or of the customer's, an ETag looks like an MD5 and is none."""
    foreign_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return bool(_MD5.fullmatch(etag)) and not foreign_key and not kms
