"""Text that can be kept, and names that users may have."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from kelpie_api.auth.users import storable
from kelpie_api.errors import InvalidRequest
from kelpie_api.schemas.users import NewUser
from kelpie_api.web.json import parse_json


@pytest.mark.parametrize(
    ("body", "errors", "index"),
    [
        (r'{"a": {"b\u0000": "x"}, "c": 1}', ["a"], None),
        (r'{"a": 1, "b\ud800": 1}', ["b\ud800"], None),
        (r'[{"a": "x"}, {"a": ["\u0000"], "b": "\ud800"}]', ["a", "b"], 1),
        (r'["\u0000"]', [], 0),
        (r'"\u0000"', [], None),
    ],
)
def test_text_that_cannot_be_kept_is_refused_by_the_name_of_its_field(
    body: str, errors: list[str], index: int | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(body.encode())
    assert (list(refused.value.errors), refused.value.index) == (errors, index)
    assert "cannot be kept" in refused.value.message


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("acme corp", True),
        ("Größe 形", True),
        ("a\u00a0b", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        ("a\nb", False),
        ("a\n", False),
        ("a\x7f", False),
        ("a\u2028b", False),
    ],
)
def test_the_command_line_and_the_api_have_one_rule_for_names(name: str, fits: bool) -> None:
    assert (NewUser().validate({"username": name}) == {}) is fits
    with nullcontext() if fits else pytest.raises(InvalidRequest):
        storable(name, "user's name")


def test_a_name_on_the_command_line_that_is_not_utf8_is_refused() -> None:
    """A body with such text is refused before its fields are looked at."""
    with pytest.raises(InvalidRequest, match="UTF-8"):
        storable("a\udcff", "user's name")
