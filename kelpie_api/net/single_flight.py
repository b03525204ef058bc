"""One question to a slow service at a time: everyone that asks it meanwhile waits for the same answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kelpie_api import logs
from kelpie_api.errors import KelpieError, NoAnswer
from kelpie_api.net.http import Answer

AT_ONCE = 16  # questions of one kind that are under way at the same time
MOST_QUESTIONS = 200  # that are, or wait to be; beyond it nobody is asked
GIVEN_UP = 30.0  # seconds after which a question counts no more, whatever became of it


class Budget:
    """Requests of this process: a few at once, then so many a second."""

    def __init__(self, a_second: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.space = 1 / a_second
        self.slack = (at_once - 1) * self.space
        self.clock = clock
        self.lock = threading.Lock()
        self.next_at = 0.0  # when the next request would be due if they came evenly

    def spare(self) -> bool:
        """Take one request's place if it may be sent at once."""
        with self.lock:
            now = self.clock()
            if self.next_at - self.slack > now:
                return False
            self.next_at = max(self.next_at, now) + self.space
            return True


@dataclass
class Flight:
    """A question under way."""

    began: float
    answer: Future[Any]


class Flights:
    """Asks each question once at a time, in threads of its own, so that nobody waits longer than it likes.

    Whose questions must not delay another's has Flights of its own.
    """

    def __init__(self, at_once: int = AT_ONCE, most: int = MOST_QUESTIONS) -> None:
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix="asking")
        self.most = most
        self.lock = threading.Lock()
        self.under_way: dict[object, Flight] = {}

    def ask(
        self, question: object, asking: Callable[[], Answer], patience: float, budget: Budget | None = None
    ) -> Answer:
        """The answer, if it comes within `patience` seconds of the asking, else NoAnswer. The asking goes on then:
        it leaves its answer where the next caller looks first. A `budget` says whether a question may be asked;
        to wait for one that somebody asked already costs nothing."""
        flight = self._flight(question, asking, budget)
        try:
            answer: Answer = flight.answer.result(max(0.0, flight.began + patience - time.monotonic()))
        except (TimeoutError, CancelledError):
            raise NoAnswer("no answer yet") from None
        return answer

    def end(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _flight(self, question: object, asking: Callable[[], Any], budget: Budget | None) -> Flight:
        with self.lock:
            self._give_up()
            if flight := self.under_way.get(question):
                return flight
            if len(self.under_way) >= self.most:
                raise NoAnswer("too many questions at once")
            if budget and not budget.spare():
                raise NoAnswer("asked often enough for now")
            flight = Flight(time.monotonic(), self.pool.submit(asking))
            self.under_way[question] = flight
        flight.answer.add_done_callback(lambda answer: self._landed(question, answer))
        return flight

    def _give_up(self) -> None:
        """Forget what was asked so long ago that nobody waits for it: it would stand in the way of the next."""
        before = time.monotonic() - GIVEN_UP
        for question in [question for question, flight in self.under_way.items() if flight.began < before]:
            self.under_way.pop(question).answer.cancel()

    def _landed(self, question: object, answer: Future[Any]) -> None:
        with self.lock:
            flight = self.under_way.get(question)
            if flight and flight.answer is answer:
                del self.under_way[question]
        error = None if answer.cancelled() else answer.exception()
        if error and not isinstance(error, NoAnswer | KelpieError):
            logs.error("asking_failed", error)
