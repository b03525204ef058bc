"""How often a child that dies is started again."""

from __future__ import annotations

import pytest

from kelpie_worker.processes.restarts import ChildKeepsDying, Restarts


def test_a_child_that_keeps_dying_is_given_up_and_another_ones_deaths_do_not_count() -> None:
    started: list[str] = []
    pauses: list[float] = []
    restarts = Restarts(started.append, pauses.append)
    for _ in range(4):
        restarts.restart("uploader")
        restarts.restart("runner")
    with pytest.raises(ChildKeepsDying, match="its runner died 5 times in a row"):
        restarts.restart("runner")
    assert started == ["uploader", "runner"] * 4
    assert len(pauses) == 8 and max(pauses) <= 2.0
