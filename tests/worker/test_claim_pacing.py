"""When the next claim may go out, as the table of `claim_pacing` has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kelpie_worker.claim_pacing import Pacing, Reason
from kelpie_worker.messages import Claimed, Departed, Message, Refused, Reported, Troubled, Verdict

REFUSED = Refused("claim-1", "claim")
TROUBLED = Troubled("claim-1", "storage")
STAYS = Departed(gone=False)
EMPTY = Claimed("claim-1", pause=7.0)
COMPLETED, FAILED = (Reported("claim-1"), Verdict.COMPLETED), (Reported("claim-1"), Verdict.FAILED)
RELEASED = (Reported("claim-1"), Verdict.RELEASED)
HAPPENINGS: list[tuple[Message, Verdict | None]] = [
    (REFUSED, None),
    (TROUBLED, None),
    (STAYS, None),
    (EMPTY, None),
    COMPLETED,
    FAILED,
    RELEASED,
]


def after(pacing: Pacing, message: Message, now: float, verdict: Verdict | None = None) -> Pacing:
    """With the whole pause, none of it taken away at random."""
    return pacing.after(message, verdict, now, jitter=lambda: 0.0)


@pytest.mark.parametrize(
    ("reason", "happening", "first", "second", "longest"),
    [
        (Reason.REFUSED, REFUSED, 1.0, 2.0, 30.0),
        (Reason.TROUBLE, TROUBLED, 10.0, 20.0, 300.0),
        (Reason.STAYS, STAYS, 2.0, 4.0, 300.0),
        (Reason.EMPTY, EMPTY, 7.0, 7.0, 7.0),
    ],
)
def test_how_long_the_next_claim_waits(
    reason: Reason, happening: Message, first: float, second: float, longest: float
) -> None:
    now, pacing, waits = 1000.0, Pacing(), []
    for _ in range(12):
        pacing = after(pacing, happening, now)
        wait, why = pacing.wait(now)
        assert why is reason
        waits.append(wait)
        now += wait
    assert pacing.wait(now) == (0.0, None)
    assert (waits[0], waits[1], waits[-1]) == (first, second, longest)


@pytest.mark.parametrize(
    ("happening", "first", "forgotten_after"),
    [
        (REFUSED, 1.0, {"an answered claim"}),
        (TROUBLED, 10.0, {"a job that completed", "a job that failed"}),
        (STAYS, 2.0, {"a job that completed"}),
    ],
)
def test_what_makes_it_the_first_time_again(happening: Message, first: float, forgotten_after: set[str]) -> None:
    events: dict[str, tuple[Message, Verdict | None]] = {
        "an answered claim": (Claimed("claim-1"), None),
        "a job that completed": COMPLETED,
        "a job that failed": FAILED,
        "a job that was released": RELEASED,
        "an instance that was given up": (Departed(gone=True), None),
        "a job that was refused": (Refused("claim-1", "upload"), None),
    }
    later = 100_000.0
    known = after(after(Pacing(), happening, 0.0), happening, 0.0)
    for name, (message, verdict) in events.items():
        again = after(after(known, message, 0.0, verdict), happening, later)
        third, _ = again.wait(later)
        assert third == (first if name in forgotten_after else 4 * first), name


@pytest.mark.parametrize("happening", [REFUSED, TROUBLED, STAYS])
def test_up_to_half_of_a_pause_is_taken_away_at_random(happening: Message) -> None:
    shortened = Pacing().after(happening, None, 0.0, jitter=lambda: 1.0)
    assert shortened.wait(0.0)[0] == after(Pacing(), happening, 0.0).wait(0.0)[0] / 2


def test_of_several_reasons_the_one_that_ends_last_counts() -> None:
    pacing = after(after(after(Pacing(), TROUBLED, 0.0), REFUSED, 0.0), EMPTY, 5.0)
    assert pacing.wait(0.0) == (12.0, Reason.EMPTY)
    assert after(pacing, TROUBLED, 5.0).wait(6.0) == (19.0, Reason.TROUBLE)


def test_time_that_passes_until_the_claim_is_part_of_the_pause() -> None:
    pacing = after(Pacing(), TROUBLED, 100.0)
    assert pacing.wait(104.0) == (6.0, Reason.TROUBLE)
    assert pacing.wait(110.0) == (0.0, None)


def test_after_trouble_the_whole_pause_follows_the_report_of_the_release() -> None:
    """However long the report was repeated; and once, not after each later report."""
    pacing = after(after(Pacing(), TROUBLED, 100.0), RELEASED[0], 500.0, RELEASED[1])
    assert pacing.wait(500.0) == (10.0, Reason.TROUBLE)
    assert after(pacing, RELEASED[0], 600.0, RELEASED[1]).wait(600.0) == (0.0, None)


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.floats(0, 1000)), max_size=30), st.floats(0, 1000))
def test_no_claim_ever_waits_longer_than_the_longest_pause(
    happenings: list[tuple[tuple[Message, Verdict | None], float]], later: float
) -> None:
    now, pacing = 0.0, Pacing()
    for (message, verdict), passed in happenings:
        now += passed
        pacing = pacing.after(message, verdict, now)
    wait, why = pacing.wait(now + later)
    assert 0.0 <= wait <= 300.0
    assert (why is None) == (wait == 0.0)
