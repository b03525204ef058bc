"""Pieces of output on their way to a coordinator that is slow, away, or takes none."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import cast

import pytest

from kelpie_worker.coordinator.client import Api, PieceAnswer, PieceRefused, Unreachable
from kelpie_worker.coordinator.output_pieces import OutputPieces
from kelpie_worker.job import Job
from kelpie_worker.limits import LARGEST_PIECE
from kelpie_worker.messages import Message, OutputTaken, SendOutput
from kelpie_worker.system.backoff import Backoff

JOB = Job("claim", "job", 1)
AT_ONCE = Backoff(first=0.001, longest=0.001)
Answers = PieceAnswer | Exception | None


class Keeping:
    """An API that answers a piece when the test lets it, at first with what the test gives."""

    def __init__(self, *answers: Answers) -> None:
        self.answers = list(answers)
        self.told = SimpleQueue[tuple[int, bytes]]()
        self.may_answer = threading.Semaphore(0)

    def send_output(self, job: Job, start: int, content: bytes) -> PieceAnswer | None:
        self.told.put((start, content))
        assert self.may_answer.acquire(timeout=30)
        answer = self.answers.pop(0) if self.answers else PieceAnswer(start + len(content), is_followed=False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answered(self) -> tuple[int, bytes]:
        """The next call, answered."""
        told = self.told.get(timeout=30)
        self.may_answer.release()
        return told


def pieces_to(api: Keeping, backoff: Backoff = AT_ONCE) -> tuple[OutputPieces, list[Message]]:
    told: list[Message] = []
    return OutputPieces(cast(Api, api), told.append, backoff), told


def test_while_one_is_under_way_the_next_ones_are_joined() -> None:
    api = Keeping()
    pieces, told = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"one"))
    first = api.told.get(timeout=30)
    pieces.send(SendOutput(JOB, 3, b"two"))
    pieces.send(SendOutput(JOB, 6, b"three"))
    api.may_answer.release()
    assert (first, api.answered()) == ((0, b"one"), (3, b"twothree"))
    pieces.wait_for("claim", 30)
    assert told == [OutputTaken("claim", is_followed=False)] * 2


def test_where_none_is_answered_no_more_waits_than_one_piece_has_room_for() -> None:
    api = Keeping(Unreachable("away"))
    pieces, _ = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"a" * LARGEST_PIECE))
    api.told.get(timeout=30)
    pieces.send(SendOutput(JOB, LARGEST_PIECE, b"b" * 1000))
    api.may_answer.release()
    start, content = api.answered()
    assert start == 1000 and content == b"a" * (LARGEST_PIECE - 1000) + b"b" * 1000


def test_a_hole_in_the_output_stays_one() -> None:
    api = Keeping(Unreachable("away"))
    pieces, _ = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"old"))
    api.told.get(timeout=30)
    pieces.send(SendOutput(JOB, 500, b"new"))
    api.may_answer.release()
    assert api.answered() == (500, b"new")


@pytest.mark.parametrize("again", [True, False])
def test_a_command_that_is_begun_again_goes_on_where_the_server_is(again: bool) -> None:
    """By another run of the worker, or by another runner of this one."""
    api = Keeping()
    pieces, _ = pieces_to(api)
    if not again:
        pieces.send(SendOutput(JOB, 0, b"begun and killed"))
        api.answered()
        pieces.wait_for("claim", 30)
    api.answers = [PieceAnswer(4000, is_followed=False)]
    pieces.send(SendOutput(JOB, 0, b"begun", again=again))
    assert [api.answered(), api.answered()] == [(0, b""), (4000, b"begun")]
    pieces.wait_for("claim", 30)
    pieces.send(SendOutput(JOB, 5, b"more", again=again))
    assert api.answered() == (4005, b"more")


def test_once_the_attempt_is_over_nothing_more_is_sent() -> None:
    api = Keeping(None)
    pieces, told = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"late"))
    api.answered()
    pieces.wait_for("claim", 30)
    pieces.send(SendOutput(JOB, 4, b"later"))
    assert api.told.empty() and told == []


def test_a_piece_that_is_refused_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    api = Keeping(PieceRefused("413: too large"))
    pieces, _ = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"refused"))
    api.answered()
    pieces.wait_for("claim", 30)
    pieces.send(SendOutput(JOB, 7, b"taken"))
    assert api.answered() == (7, b"taken")
    assert "output_refused" in capfd.readouterr().err


def test_the_end_of_an_attempt_waits_for_no_coordinator_that_is_away() -> None:
    api = Keeping()
    pieces, _ = pieces_to(api)
    pieces.send(SendOutput(JOB, 0, b"stuck"))
    api.told.get(timeout=30)
    pieces.wait_for("claim", 0.05)
    pieces.forget("claim")
    api.may_answer.release()


def test_before_the_end_is_reported_the_last_piece_is_sent_without_a_pause() -> None:
    api = Keeping(Unreachable("away"))
    pieces, told = pieces_to(api, Backoff(first=3600, longest=3600))
    pieces.send(SendOutput(JOB, 0, b"last"))
    assert api.answered() == (0, b"last")
    ending = threading.Thread(target=pieces.wait_for, args=("claim", 30))
    ending.start()
    assert api.answered() == (0, b"last")
    ending.join(30)
    assert told == [OutputTaken("claim", is_followed=False)]
