"""Text that cannot be stored is refused however a body writes it, and a body may be 100 levels deep."""

from __future__ import annotations

import json

import pytest

from kelpie_api.errors import InvalidRequest
from kelpie_api.web.json import parse_json

REFUSED = [
    rb'{"a": "\u0000"}',
    rb'{"a": ["b", {"c": "x\u0000y"}]}',
    rb'{"\u0000": 1}',
    rb'"\ud800"',
    rb'["\uDFFF"]',
    rb'{"a": "\udc00\ud800"}',
]
ACCEPTED = [
    (rb'{"a": "\\u0000"}', {"a": "\\u0000"}),  # a backslash, and then letters
    (rb'["\ud83d\ude00"]', ["\U0001f600"]),  # a whole pair
    ('["\U0001f600 é"]'.encode(), ["\U0001f600 é"]),
    (rb'"\u0001"', "\x01"),
]


@pytest.mark.parametrize("body", REFUSED)
def test_text_that_cannot_be_stored_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="NUL or half a surrogate pair"):
        parse_json(body)


@pytest.mark.parametrize(("body", "value"), ACCEPTED)
def test_other_escapes_are_accepted(body: bytes, value: object) -> None:
    assert parse_json(body) == value


@pytest.mark.parametrize("filling", ['"x"', r'"\ud83d\ude00"'])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a": ', "}"), ('[1, {"a": [], "b": ', "}]")])
def test_a_body_may_be_a_hundred_levels_deep(opened: str, closed: str, filling: str) -> None:
    levels = 100 // (opened.count("[") + opened.count("{") - opened.count("]"))
    whole = opened * levels + filling + closed * levels
    assert parse_json(whole.encode()) == json.loads(whole)
    with pytest.raises(InvalidRequest, match="nested more than 100 levels"):
        parse_json(f"[{whole}]".encode())
