"""Patterns that say which files a job syncs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kelpie_worker.limits import LONGEST_PATTERN
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


def test_a_pattern_that_would_overflow_the_compilers_stack_is_a_sentence_and_not_a_signal() -> None:
    with pytest.raises(ValueError, match="over 4096 characters") as refusal:
        matcher("|" * 120_000)
    assert len(str(refusal.value)) < 200


DEEPEST = [
    "|" * LONGEST_PATTERN,
    "a|" * (LONGEST_PATTERN // 2),
    "(" * (LONGEST_PATTERN // 2) + ")" * (LONGEST_PATTERN // 2),
    "(?:" * (LONGEST_PATTERN // 4) + ")" * (LONGEST_PATTERN // 4),
    "(?<=" * (LONGEST_PATTERN // 5) + ")" * (LONGEST_PATTERN // 5),
    "(|" * (LONGEST_PATTERN // 4) + ")*" * (LONGEST_PATTERN // 4),
    ("(|" * 200 + ")+" * 200 + "|") * (LONGEST_PATTERN // 801),
]


@pytest.mark.parametrize("pattern", DEEPEST)
def test_the_deepest_patterns_need_an_eighth_of_a_threads_stack_at_the_most(pattern: str) -> None:
    assert len(pattern) <= LONGEST_PATTERN
    program = (
        "import sys, threading, regress\n"
        "def compile():\n"
        "    try: regress.Regex(sys.argv[1])\n"
        "    except regress.RegressError: pass\n"
        "threading.stack_size(1024 * 1024)\n"
        "thread = threading.Thread(target=compile); thread.start(); thread.join()\n"
    )
    subprocess.run([sys.executable, "-c", program, pattern], check=True)
