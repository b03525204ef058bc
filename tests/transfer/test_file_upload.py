"""The parts of a multipart upload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.transfer.file_upload import PART_SIZE, part_size


@given(st.integers(0, 5 * 1024**4))
def test_any_file_fits_into_the_parts_that_s3_allows(size: int) -> None:
    part = part_size(size)
    assert part >= PART_SIZE and part % (1024 * 1024) == 0 and -(-size // part) <= 10_000
