"""When a command has stalled: the rows of the table in `Stall`, and the time that counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kelpie_worker.stall import Stall

AFTER = 60  # seconds

SIGNS: list[tuple[str, Callable[[Stall], bool], bool, bool]] = [
    # sign, and whether it counts: until the command told any progress, and afterwards
    ("progress that moved", lambda stall: stall.note_progress(has_moved=True), True, True),
    ("the same progress again", lambda stall: stall.note_progress(has_moved=False), False, False),
    ("output, or a change of a file", lambda stall: stall.note_change(), True, False),
]


def quiet_for(seconds: float, tells_progress: bool = False, is_uploading: bool = False) -> Stall:
    """A command after so much time without a sign."""
    stall = Stall()
    stall.begin()
    if tells_progress:
        stall.note_progress(has_moved=True)
    stall.pass_time(seconds, AFTER, is_uploading)
    return stall


@pytest.mark.parametrize("tells_progress", [False, True])
@pytest.mark.parametrize(("sign", "note", "at_first", "afterwards"), SIGNS, ids=[row[0] for row in SIGNS])
def test_what_puts_a_stall_off_also_ends_it(
    sign: str, note: Callable[[Stall], bool], at_first: bool, afterwards: bool, tells_progress: bool
) -> None:
    counts = afterwards if tells_progress else at_first
    late, stalled = quiet_for(AFTER - 1, tells_progress), quiet_for(AFTER, tells_progress)
    assert not late.is_stalled and stalled.is_stalled
    assert not note(late) and note(stalled) is counts and stalled.is_stalled is not counts
    assert late.pass_time(1, AFTER, is_uploading=False) is not counts


def test_a_stall_is_told_once_and_a_command_that_is_started_again_has_its_whole_time() -> None:
    stall = Stall()
    assert [stall.pass_time(AFTER / 2, AFTER, is_uploading=False) for _ in range(4)] == [False, True, False, False]
    assert stall.note_change() and not stall.note_change()
    stall.pass_time(AFTER - 1, AFTER, is_uploading=False)
    stall.begin()
    assert not stall.pass_time(1, AFTER, is_uploading=False)


def test_while_files_go_up_time_counts_only_for_a_command_that_tells_progress() -> None:
    assert not quiet_for(AFTER, is_uploading=True).is_stalled
    told = quiet_for(AFTER, tells_progress=True, is_uploading=True)
    assert told.is_stalled and told.missing == "progress"
    assert quiet_for(AFTER).missing == "change of a file or of the output"
