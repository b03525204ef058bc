"""The file that an object of the bucket becomes."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.workspace.paths import landing_path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a", "/in/a"),
        ("a/b", "/in/a/b"),
        ("a//b", "/in/a/b"),
        ("/abs", "/in/abs"),
        ("./a", "/in/a"),
        ("a..b", "/in/a..b"),
        ("../x", None),
        ("a/../../x", None),
        ("a/../b", None),
        ("..", None),
        ("", None),
        ("/", None),
        ("a\0b", None),
    ],
)
def test_where_a_key_lands(key: str, path: str | None) -> None:
    assert landing_path("/in", key) == path


@given(st.text())
def test_no_key_lands_outside(key: str) -> None:
    path = landing_path("/in", key)
    assert path is None or os.path.normpath(path).startswith("/in/")
