"""Asking services that may be slow, away, or answer rubbish: a deadline for the whole exchange, one asker however
many wait, and no more questions than the service likes."""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from kelpie_api import logs
from kelpie_api.config import VERSION
from kelpie_api.errors import KelpieError, NoAnswer

CONNECT = 2.0  # seconds for one address of several
LARGEST_ANSWER = 16 * 1024 * 1024
AT_ONCE = 16  # questions of one kind that are under way at the same time
MOST_QUESTIONS = 200  # that are, or wait to be; beyond it nobody is asked
A_DAY = 24 * 3600.0
GIVEN_UP = 30.0  # seconds after which a question counts no more, whatever became of it

WHO = {"User-Agent": f"kelpie/{VERSION}", "Connection": "close"}

Answer = TypeVar("Answer")
Target = tuple[int, tuple[Any, ...]]  # an address family and what `connect` takes


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any  # None where the body is not JSON
    retry_after: float


def get(url: str, headers: Mapping[str, str], limit: float) -> Reply:
    return send("GET", url, headers, limit)


def send(method: str, url: str, headers: Mapping[str, str], limit: float, body: bytes | None = None) -> Reply:
    """One request within `limit` seconds, from the connection to the last byte, however slowly the answer drips.
    Raises NoAnswer.

    Redirects are not followed and the environment's proxies and .netrc not read: the key goes to this address.
    """
    due = time.monotonic() + limit
    try:
        return exchange(method, url, headers, body, due)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer ({type(error).__name__})") from error


def exchange(method: str, url: str, headers: Mapping[str, str], body: bytes | None, due: float) -> Reply:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    with dial(resolve(host, port), CONNECT, due) as plain:
        plain.settimeout(left(due))
        with tls().wrap_socket(plain, server_hostname=host) if secure else plain as line:
            connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port)
            connection.sock = DeadLine(line, due)  # else it would connect by itself, and wait as long as it likes
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, {**WHO, **headers})
            with connection.getresponse() as answer:
                return Reply(answer.status, parsed(read(answer)), retry_after(answer))


class DeadLine:
    """A connection that is dead after a moment, though each byte comes in time."""

    def __init__(self, line: socket.socket, due: float) -> None:
        self.line = line
        self.due = due

    def sendall(self, data: bytes) -> None:
        self.line.settimeout(left(self.due))
        self.line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(Inflow(self))

    def close(self) -> None:
        """The client closes once it has the headers, and reads on; who opened the connection closes it."""


class Inflow(io.RawIOBase):
    def __init__(self, dead_line: DeadLine) -> None:
        self.dead_line = dead_line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self.dead_line.line.settimeout(left(self.dead_line.due))
        return self.dead_line.line.recv_into(buffer)


def resolve(host: str, port: int) -> list[Target]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, tuple(address)) for family, _, _, _, address in found]


def dial(targets: Iterable[Target], patience: float, due: float) -> socket.socket:
    """A connection to the first of the addresses that takes one within `patience` seconds."""
    failure: OSError = socket.gaierror("The name has no address")
    for family, address in targets:
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(min(patience, left(due)))
            line.connect(address)
            return line
        except OSError as error:
            line.close()
            failure = error
    raise failure


def left(due: float) -> float:
    """The seconds until then. Raises TimeoutError if there are none."""
    seconds = due - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def trust() -> ssl.SSLContext:
    """The system's authorities and those that `requests` brings, for small images have none."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


@cache
def tls() -> ssl.SSLContext:
    return trust()


def read(answer: http.client.HTTPResponse) -> bytes:
    body = b""
    while chunk := answer.read1(65536):
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise NoAnswer("the answer was too long")
    if answer.length:
        raise NoAnswer("the answer was cut off")
    return body


def parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def retry_after(answer: http.client.HTTPResponse) -> float:
    """The seconds that the service asks for, itself or by naming a date (RFC 9110, section 10.2.3)."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 5 else 0.0
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    # Without a zone it is GMT, as all of HTTP's dates.
    seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), A_DAY)


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
