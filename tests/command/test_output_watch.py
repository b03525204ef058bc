"""When what a command prints is sent on."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kelpie_api.queue import output
from kelpie_worker.command import output_watch
from kelpie_worker.command.output_tail import OutputTail
from kelpie_worker.command.output_watch import OutputWatch
from kelpie_worker.job import Job, Steering
from kelpie_worker.messages import Message, Printed

LOOK_EVERY = 0.5  # seconds, as the runner looks


def pieces(monkeypatch: pytest.MonkeyPatch, seconds: float, followed_from: float) -> list[float]:
    """When the pieces of a command are sent that prints all the time and is read along from a moment on."""
    now, sent = 1000.0, list[float]()
    monkeypatch.setattr(output_watch, "boottime", lambda: now)

    def tell(message: Message) -> None:
        if isinstance(message, Printed) and message.content:
            sent.append(now - 1000)

    tail = OutputTail(65536, ())
    watch = OutputWatch(Job("claim", "job", attempt=1, steering=Steering(keep_output=65536)), tail, tell)
    while now <= 1000 + seconds:
        tail.add(1, b"line\n")
        watch.is_followed = now - 1000 >= followed_from
        watch.look()
        now += LOOK_EVERY
    return sent


def test_the_first_pieces_come_soon_and_later_ones_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pieces(monkeypatch, 36, followed_from=99) == [0, 1, 2, 4, 8, 16, 26, 36]


def test_while_the_output_is_read_along_a_piece_comes_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pieces(monkeypatch, 19, followed_from=16.5) == [0, 1, 2, 4, 8, 16, 17, 18, 19]


@pytest.mark.parametrize("followed_from", [0.5, 1.5, 2.5])
def test_a_reader_of_a_commands_first_seconds_has_each_line_within_two(
    monkeypatch: pytest.MonkeyPatch, followed_from: float
) -> None:
    """The answer to a piece says that there is a reader, and the first three go a second apart without one."""
    longest = max(after - before for before, after in pairwise(pieces(monkeypatch, 20, followed_from)))
    assert longest + output.PAUSE < 2
