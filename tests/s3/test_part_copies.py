"""Parts that storage copies: what is believed of a bucket, and what is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.errors import NotCopied
from kelpie_worker.s3.objects import SourceRange, Target
from kelpie_worker.system.linux import boottime
from local_stack.s3 import S3Server
from tests.doubles.faulty_proxy import FaultyProxy

CONTENT = bytes(range(256)) * 24_000
LENGTH = 5 * 1024 * 1024


class Copying:
    """An upload whose first part is to be copied from the object under the same key."""

    def __init__(self, s3: S3Server, bucket: str) -> None:
        self.client = SharedClient(None)
        lease = Lease()
        lease.renew(boottime() + 3600)
        self.storage = Storage(self.client, lease, max_retries=0)
        self.target = Target(bucket, "key", "text/plain")
        s3.put(bucket, "key", CONTENT)
        self.etag = s3.etags(bucket)["key"]
        self.upload_id = self.storage.begin(self.target)

    def copy(self, md5: bytes = hashlib.md5(CONTENT[:LENGTH]).digest(), is_known: bool = True) -> None:
        source = SourceRange(self.etag, 0, LENGTH, md5)
        self.storage.copy_part(self.target, self.upload_id, 1, source, is_known)


@pytest.fixture
def copying(aws: None, s3: S3Server, bucket: str) -> Iterator[Copying]:
    copying = Copying(s3, bucket)
    yield copying
    copying.storage.abort(copying.target, copying.upload_id)


def test_two_failures_in_a_row_end_the_tries_in_this_bucket(copying: Copying, bucket: str) -> None:
    for fails in (True, False, True, True):
        assert copying.storage.copies_parts(bucket)
        if fails:
            with pytest.raises(NotCopied):
                copying.copy(md5=b"another", is_known=False)
        else:
            copying.copy()
    assert not copying.storage.copies_parts(bucket)
    assert copying.storage.copies_parts("another")


def test_a_part_with_the_md5_of_the_local_bytes_needs_no_other_proof(copying: Copying) -> None:
    copying.copy(is_known=False)


def test_another_md5_is_no_copy_where_etags_are_md5s(copying: Copying, bucket: str) -> None:
    for _ in range(2):
        copying.client.etag_is_md5.saw(bucket, True)
    with pytest.raises(NotCopied):
        copying.copy(md5=b"another")


def test_where_etags_are_no_md5s_the_size_of_what_was_copied_is_looked_at(
    copying: Copying, faulty: FaultyProxy
) -> None:
    copying.copy(md5=b"encrypted")
    faulty.copies = "whole"
    with pytest.raises(NotCopied):
        copying.copy(md5=b"encrypted")


def test_where_etags_are_no_md5s_a_source_that_is_not_known_is_not_copied(copying: Copying) -> None:
    with pytest.raises(NotCopied):
        copying.copy(md5=b"encrypted", is_known=False)
