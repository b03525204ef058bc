"""Patterns that say which files a job syncs."""

from __future__ import annotations

import pytest

from kelpie_worker.workspace.pattern import matcher


def test_a_pattern_is_ecmascripts_and_not_pythons() -> None:
    assert matcher(r"^(?<name>[^]+)\.bin$")("model.bin")
    assert not matcher(r"\Z")("anything")
    with pytest.raises(ValueError, match="does not compile"):
        matcher("(?P<name>x)")


def test_a_pattern_searches_and_a_wrong_one_is_named() -> None:
    assert matcher(None)("anything")
    assert matcher(r"\.pt$")("deep/model.pt") and not matcher(r"\.pt$")("model.pt.tmp")
    with pytest.raises(ValueError, match="does not compile"):
        matcher("(")
