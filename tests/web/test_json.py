"""Long answers are written a few items at a time, and their bytes are the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kelpie_api.json_text import json_bytes
from kelpie_api.web.json import json_in_pieces

LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
ITEM = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.text(max_size=3), LEAF, max_size=3)
LONG = st.integers(0, 160).flatmap(lambda size: st.lists(ITEM, min_size=size, max_size=size))


@given(ITEM | LONG | st.dictionaries(st.text(max_size=3), LONG | ITEM, max_size=2))
def test_json_in_pieces_is_the_same_json(value: object) -> None:
    assert json.loads(json_in_pieces(value, json_bytes)) == value
