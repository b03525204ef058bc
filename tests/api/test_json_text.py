"""JSON by a library that is not Python's own is the same JSON; what it does not take is left to Python's own."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.json_text import json_bytes, json_text, read_json

LEAF = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUE = st.recursive(
    LEAF | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(VALUE)
def test_what_is_written_is_read_the_same_by_both(value: Any) -> None:
    written = json_bytes(value)
    assert json.loads(written) == read_json(written) == read_json(json_text(value)) == value


@given(VALUE, st.booleans())
def test_what_python_writes_is_read_the_same(value: Any, escaped: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


@pytest.mark.parametrize(
    "text", ["", "[1,]", "{'a': 1}", "[NaN]", "-Infinity", "nul", '"a\tb"', "[1] 2", '{"a": 1']
)
def test_a_text_that_is_no_json_is_refused_in_pythons_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"\(char \d+\)|is no JSON number"):
        read_json(text)


def test_bytes_that_are_no_utf_8_are_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        read_json(b'"\xff"')


def test_deep_nesting_is_refused_or_read() -> None:
    assert read_json("[" * 100 + "]" * 100)
    with pytest.raises(RecursionError):
        read_json("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400, "\ud800", ["\udfff", {"\ud83d": 1}]])
def test_what_the_library_does_not_write_is_written_all_the_same(value: Any) -> None:
    assert json.loads(json_bytes(value)) == value


def test_half_a_surrogate_pair_is_read() -> None:
    assert read_json(rb'"\ud800"') == "\ud800"


def test_a_whole_number_of_more_than_64_bits_is_read_as_a_floating_one() -> None:
    assert read_json("123456789012345678901234") == 1.2345678901234568e23


def test_a_mark_of_the_byte_order_is_passed_over() -> None:
    assert read_json(b"\xef\xbb\xbf[1]") == [1]


def test_values_of_other_types_are_made_by_default_and_refused_without() -> None:
    job_id = UUID(int=1)
    assert json_bytes([job_id, {1}], lambda value: sorted(value)) == f'["{job_id}",[1]]'.encode()
    with pytest.raises(TypeError):
        json_bytes({1})
