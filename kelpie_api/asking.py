"""Asking services that may be slow, away, or answer rubbish: a deadline, and one asker however many wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
import urllib3

from kelpie_api import logs
from kelpie_api.errors import KelpieError, NoAnswer

LARGEST_ANSWER = 16 * 1024 * 1024
AT_ONCE = 16  # requests of one process that are under way at the same time
MOST_QUESTIONS = 200  # that wait for one of these; beyond it nobody is asked

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any  # None where the body is not JSON
    retry_after: float


def get(url: str, headers: Mapping[str, str], limit: float) -> Reply:
    return send("GET", url, headers, limit)


def send(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> Reply:
    """One request within `limit` seconds, however slowly the answer drips. Raises NoAnswer.

    Redirects are not followed and the environment's proxies and .netrc not read: the key goes to this address.
    """
    due = time.monotonic() + limit
    try:
        with requests.Session() as session:
            session.trust_env = False
            with session.request(
                method,
                url,
                headers=dict(headers),
                data=body,
                timeout=limit,
                allow_redirects=False,
                stream=True,
            ) as answer:
                return Reply(answer.status_code, parsed(read(answer, due)), retry_after(answer))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise NoAnswer(f"no answer ({type(error).__name__})") from error


def read(answer: requests.Response, due: float) -> bytes:
    body = b""
    while chunk := answer.raw.read1(65536, decode_content=True):
        body += chunk
        if time.monotonic() > due:
            raise NoAnswer("the answer was too slow")
        if len(body) > LARGEST_ANSWER:
            raise NoAnswer("the answer was too long")
    return body


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def retry_after(answer: requests.Response) -> float:
    """The seconds that the service asks for; a date is as good as nothing."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0.0


@dataclass
class Flight:
    """A question under way."""

    began: float
    answer: Future[Any]


class Flights:
    """Asks each question once at a time, in threads of its own, so that nobody waits longer than it likes."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="asking")
        self.lock = threading.Lock()
        self.under_way: dict[object, Flight] = {}

    def ask(self, question: object, asking: Callable[[], Answer], patience: float) -> Answer:
        """The answer, if it comes within `patience` seconds of the asking, else NoAnswer. The asking goes on then:
        it leaves its answer where the next caller looks first."""
        flight = self._flight(question, asking)
        try:
            answer: Answer = flight.answer.result(max(0.0, flight.began + patience - time.monotonic()))
        except TimeoutError:
            raise NoAnswer("no answer yet") from None
        return answer

    def end(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _flight(self, question: object, asking: Callable[[], Any]) -> Flight:
        with self.lock:
            if flight := self.under_way.get(question):
                return flight
            if len(self.under_way) >= MOST_QUESTIONS:
                raise NoAnswer("too many questions at once")
            flight = Flight(time.monotonic(), self.pool.submit(asking))
            self.under_way[question] = flight
        flight.answer.add_done_callback(lambda answer: self._landed(question, answer))
        return flight

    def _landed(self, question: object, answer: Future[Any]) -> None:
        self.under_way.pop(question, None)
        error = None if answer.cancelled() else answer.exception()
        if error and not isinstance(error, NoAnswer | KelpieError):
            logs.error("asking_failed", error)
