"""How files are divided into the parts of an upload."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.transfer.part_sizes import PART_SIZE, WHOLE_SIZE, copied_parts, part_size

LARGEST = 5 * 1024**4
MIB = 1024 * 1024


@given(st.integers(0, LARGEST))
def test_any_file_fits_into_the_parts_that_s3_allows(size: int) -> None:
    part = part_size(size)
    assert part >= PART_SIZE and part % MIB == 0 and -(-size // part) <= 10_000


@given(
    st.integers(0, LARGEST - 1).flatmap(
        lambda stored: st.tuples(st.just(stored), st.integers(stored + 1, LARGEST))
    )
)
def test_what_is_copied_and_what_is_sent_are_parts_that_any_storage_takes(sizes: tuple[int, int]) -> None:
    stored, size = sizes
    copied = copied_parts(stored, size)
    rest = size - sum(copied)
    sent = [part_size(size)] * (rest // part_size(size)) + [last for last in [rest % part_size(size)] if last]
    *all_but_last, last = [*copied, *sent]
    assert sum(copied) <= stored and len(copied) + len(sent) <= 10_000
    if copied:
        assert len({*all_but_last}) == 1 and all_but_last[0] >= WHOLE_SIZE and last <= all_but_last[0]
        assert max(copied) <= 5 * 1024**3
        assert rest <= size - stored + part_size(size)


@given(st.integers(WHOLE_SIZE, 100 * 1024**3), st.integers(1, WHOLE_SIZE - 1024))
def test_of_a_file_that_has_grown_by_little_hardly_more_is_sent(stored: int, growth: int) -> None:
    assert stored + growth - sum(copied_parts(stored, stored + growth)) < growth + 1024
