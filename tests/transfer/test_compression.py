"""Files that are compressed on their way."""

from __future__ import annotations

import gzip

from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.transfer.compression import gzipped


@given(st.lists(st.binary(max_size=2000)), st.integers(10, 500))
def test_compressed_blocks_are_equal_in_size_and_unpack_to_the_content(content: list[bytes], size: int) -> None:
    blocks = list(gzipped(iter(content), size))
    assert all(len(block) == size for block in blocks[:-1])
    assert gzip.decompress(b"".join(blocks)) == b"".join(content)
