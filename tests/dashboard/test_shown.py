"""How values are shown: lengths of time, sizes, and text that may hold anything."""

from __future__ import annotations

import pytest

from kelpie_api.dashboard.shown import LONGEST_LINE, LONGEST_SHOWN, brief, duration, plain, printed, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 s"),
        (59.6, "1 m"),
        (61, "1 m 1 s"),
        (3600, "1 h"),
        (7322, "2 h 2 m"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (100, "2 m"), (1900, "32 m"), (90_000, "25 h")])
def test_a_brief_one_has_one(seconds: float, text: str) -> None:
    assert brief(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (2**50, "1,024.0 TiB"), (None, "–")])
def test_a_size_has_its_unit(number: int | None, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    "hostile", ["\u202e", "\u2066", "\u200f", "\u061c", "\x1b", "\0", "\x85", "\u2028", "\ud800"]
)
def test_what_would_hide_or_reorder_other_text_is_shown_by_its_code(hostile: str) -> None:
    shown = plain(f"a{hostile}b")
    assert hostile not in shown and shown.startswith("a‹") and f"{ord(hostile):04X}›b" in shown


def test_long_text_is_cut_and_says_so() -> None:
    assert plain("x" * 10**6) == "x" * LONGEST_SHOWN + "…"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\x1b[1;32mgreen\x1b[0m", "green"),
        (b"\x1b]0;title\x07text\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "textlink"),
        (b"10%\r50%\r100%\r\nnext", "100%\nnext"),
        (b"\x1b[2J\x1b[1;1Hhome\x1bc", "home"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\tb\x00c\x08", "a\tb‹Cc:0000›c‹Cc:0008›"),
        ("a\u202eb".encode(), "a‹Cf:202E›b"),
        (b"\x1b[", ""),
    ],
)
def test_output_is_shown_without_what_moves_the_cursor(content: bytes, text: str) -> None:
    assert printed(content) == text


def test_a_line_without_end_is_cut() -> None:
    assert printed(b"x" * 10**6) == "x" * LONGEST_LINE + "…"


def test_sequences_that_never_end_take_no_time() -> None:
    assert len(printed(b"\x1b]" * 200_000 + b"\x1b[" * 200_000)) < 10**6
