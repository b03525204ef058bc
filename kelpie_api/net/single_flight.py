"""Single flight: concurrent callers with the same question to a slow service share one request and its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from kelpie_api import logs
from kelpie_api.errors import KelpieError, NoAnswer

AT_ONCE = 16  # threads, so requests under way at the same time
MOST_QUESTIONS = 200  # under way or waiting for a thread; further questions are refused
GIVEN_UP = 30.0  # seconds after which a question no longer counts, even if its request still runs

Result = TypeVar("Result")


class Budget:
    """A rate limit of this process: a burst of `at_once` requests, then `a_second` of them."""

    def __init__(self, a_second: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.space = 1 / a_second
        self.slack = (at_once - 1) * self.space
        self.clock = clock
        self.lock = threading.Lock()
        self.next_at = 0.0  # when the next request would be due if they came evenly

    def spare(self) -> bool:
        """Whether a request may be sent now; if so it is counted."""
        with self.lock:
            now = self.clock()
            if self.next_at - self.slack > now:
                return False
            self.next_at = max(self.next_at, now) + self.space
            return True


@dataclass
class Flight:
    """A request under way."""

    began: float
    answer: Future[Any]


class Flights:
    """Runs one request for each question at a time, in its own threads, so that each caller has its own time-out.

    Kinds of questions that must not delay each other use separate Flights.
    """

    def __init__(self, at_once: int = AT_ONCE, most: int = MOST_QUESTIONS) -> None:
        self.pool = ThreadPoolExecutor(at_once, thread_name_prefix="asking")
        self.most = most
        self.lock = threading.Lock()
        self.under_way: dict[object, Flight] = {}

    def ask(
        self, question: object, asking: Callable[[], Result], patience: float, budget: Budget | None = None
    ) -> Result:
        """The answer, if it comes within `patience` seconds after the request began. Raises NoAnswer.

        After that the request goes on, and `asking` stores its answer for later callers. `budget` limits new
        requests; sharing one that is under way costs nothing.
        """
        flight = self._flight(question, asking, budget)
        try:
            answer: Result = flight.answer.result(max(0.0, flight.began + patience - time.monotonic()))
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
        """Forget requests that no caller can wait for any more, so that the question can be asked again."""
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
