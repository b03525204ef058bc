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


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("{'command': 'work'}", "double quotes"),
        ("[{'command': 'work'}]", "double quotes"),
        ("'{}'", "double quotes"),
        ("{command: work}", "double quotes"),
        ("[{command: work}]", "double quotes"),
        ("command=python&container_group_id=g", "form"),
        ("@job.json", "--data-binary"),
        ('{"command": "work",}', "comma"),
        ('[{"command": "work"},]', "comma"),
    ],
)
def test_a_body_that_is_no_json_is_answered_with_what_is_probably_wrong(body: str, hint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(body.encode())
    assert "is not JSON" in refused.value.message and hint in refused.value.message


def test_a_body_may_begin_with_a_mark_of_its_encoding() -> None:
    assert parse_json(b'\xef\xbb\xbf{"command": "work"}\r\n') == {"command": "work"}
