"""Whether a generation that was never reported is whole, as a table of what the bucket shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.checkpoints.generation_mark import Mark, MarkedObject, read_mark, removals, unreported_whole
from kelpie_worker.job import StoredObject

REPORTED_BY = 3
# What the bucket has of the manifest as it was reported, with its times.
W1, L0 = StoredObject("b", "c/1/w", 5, "e1"), StoredObject("b", "c/latest", 1, "e2")
MARK = Mark(attempt=3, block=0, number=70, files=2)
LATER = Mark(attempt=3, block=0, number=80, files=2)


def other(key: str, at: float, mark: Mark | None, was_reported: bool = False) -> MarkedObject:
    return MarkedObject(StoredObject("b", key, 5, f"etag of {key}"), at, mark, was_reported)


W2, LATEST = other("c/2/w", 20, MARK), other("c/latest", 21, MARK, was_reported=True)

# (what the bucket shows, unchanged, missing, others, whether it is whole)
SHOWN = [
    ("all files of one generation", {W1: 10.0}, [], [W2, LATEST], True),
    ("nothing of the manifest as it was", {}, [], [W2, LATEST], True),
    ("one file of two", {W1: 10.0}, [], [W2], False),
    ("the marker alone", {W1: 10.0}, [], [LATEST], False),
    (
        "a generation that left files out",
        {W1: 10.0},
        [],
        [other("c/latest", 21, Mark(3, 0, 70, 0), was_reported=True)],
        False,
    ),
    ("a whole one, and a beginning of the next", {}, [], [W2, LATEST, other("c/3/w", 21, LATER)], False),
    (
        "a whole one over parts of another",
        {},
        [],
        [other("c/2/w", 20, MARK), other("c/3/w", 22, LATER), other("c/latest", 23, LATER, was_reported=True)],
        True,
    ),
    (
        "a file of an earlier generation that is younger",
        {},
        [],
        [other("c/2/w", 29, MARK), other("c/3/w", 22, LATER), other("c/latest", 23, LATER, was_reported=True)],
        False,
    ),
    ("a file of another program's, as young", {W1: 10.0}, [], [W2, LATEST, other("c/x", 21, None)], False),
    ("a file of another program's, from before", {W1: 10.0}, [], [W2, LATEST, other("c/x", 19, None)], True),
    (
        "a reported file that another program replaced",
        {},
        [],
        [W2, LATEST, other("c/1/w", 19, None, was_reported=True)],
        False,
    ),
    (
        "a reported file that an earlier attempt replaced",
        {},
        [],
        [W2, LATEST, other("c/1/w", 19, Mark(2, 0, 99, 1), was_reported=True)],
        False,
    ),
    (
        "an earlier attempt's than the manifest",
        {W1: 10.0},
        [],
        [other("c/latest", 21, Mark(2, 0, 70, 1), was_reported=True)],
        False,
    ),
    (
        "a later attempt's than the manifest",
        {W1: 10.0},
        [],
        [other("c/latest", 21, Mark(5, 0, 70, 1), was_reported=True)],
        True,
    ),
    ("a reported file is missing", {L0: 10.0}, ["c/1/w"], [other("c/2/w", 20, Mark(3, 0, 70, 1))], False),
    (
        "one that was to be deleted is missing",
        {L0: 10.0},
        ["c/1/w"],
        [other("c/2/w", 20, Mark(3, 0, 70, 1, removals(["c/1/w"])))],
        True,
    ),
    (
        "two directories, and one of them is not all there",
        {},
        [],
        [W2, LATEST, other("d/x", 20, Mark(3, 1, 70, 2))],
        False,
    ),
    ("two directories", {}, [], [W2, LATEST, other("d/x", 20, Mark(3, 1, 99, 1))], True),
    ("nothing beside the manifest, of which a file is missing", {L0: 10.0}, ["c/1/w"], [], False),
]


@pytest.mark.parametrize(
    ("unchanged", "missing", "others", "is_whole"), [row[1:] for row in SHOWN], ids=[row[0] for row in SHOWN]
)
def test_only_what_the_bucket_itself_shows_to_be_whole_is_called_so(
    unchanged: dict[StoredObject, float], missing: list[str], others: list[MarkedObject], is_whole: bool
) -> None:
    whole = unreported_whole(REPORTED_BY, unchanged, missing, others)
    of_attempt = {marked.object for marked in others if marked.mark}
    assert (set(unchanged) | of_attempt if is_whole else set()) == set(whole)


marks = st.builds(
    Mark,
    attempt=st.integers(0, 10**6),
    block=st.integers(0, 100),
    number=st.integers(0, 10**14),
    files=st.integers(0, 1000),
    removed=st.lists(st.text(max_size=20), max_size=20).map(removals),
)


@given(marks)
def test_a_mark_is_read_as_it_was_written_also_where_storage_changes_the_case_of_names(mark: Mark) -> None:
    assert read_mark(dict(mark.metadata)) == mark
    assert read_mark({name.title(): value for name, value in mark.metadata}) == mark


@pytest.mark.parametrize(
    "metadata", [{}, {"kelpie-generation": ""}, {"kelpie-generation": "1 2 3"}, {"kelpie-generation": "a b c d"}]
)
def test_what_is_no_mark_says_nothing(metadata: dict[str, str]) -> None:
    assert read_mark(metadata) is None


def test_a_mark_is_never_larger_than_what_s3_keeps_as_metadata() -> None:
    for count in (100, 101, 5000):
        mark = Mark(10**6, 100, 10**14, 1000, removals(f"c/{number}" for number in range(count)))
        assert sum(len(name) + len(value) for name, value in mark.metadata) <= 2048
