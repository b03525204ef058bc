"""One request with its retries, and what its answer means."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from kelpie.errors import NotAllowed, NotFound, NotSupported, Refused, Unreachable
from kelpie.steps import Call, ConnectionLost, Emit, Pause, Reply

EXTENSIONS = "Kelpie-Extensions"
PATIENCE = 60.0  # seconds for which a request is sent again before an error is raised
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
AGAIN = (502, 503, 504)  # the coordinator's own, and what a proxy answers for a connection that was lost behind it

Exchange = Generator[Call | Pause | Emit, Reply | None, Reply]


@dataclass
class Server:
    """What is known of the coordinator: which extensions it announced. `patience` is in seconds."""

    url: str
    patience: float = PATIENCE
    extensions: frozenset[str] | None = field(default=None)

    def learn(self, reply: Reply) -> None:
        announced = reply.headers.get(EXTENSIONS)
        if announced is not None:
            self.extensions = frozenset(part.strip() for part in announced.split(",") if part.strip())


def send(server: Server, call: Call) -> Exchange:
    """Send a request until it is answered; return an answer that is no refusal.

    It is sent again, with pauses that double, only after a lost connection or an answer that says that nothing was
    carried out, and only if it is repeatable or cannot have arrived. Raises Refused and its kinds, Unreachable.
    """
    deadline = time.monotonic() + server.patience
    tries = 0
    while True:
        tries += 1
        try:
            reply = yield call
        except ConnectionLost as lost:
            if (call.repeatable or not lost.sent) and time.monotonic() < deadline:
                yield Pause(pause_before(tries))
                continue
            raise Unreachable(unreachable(server, call, lost)) from lost
        assert reply is not None, "a call is answered or lost"
        server.learn(reply)
        if reply.status in AGAIN and call.repeatable and time.monotonic() < deadline:
            yield Pause(asked_pause(reply, deadline) or pause_before(tries))
            continue
        if reply.status < 400:
            return reply
        raise refusal(server, reply)


def pause_before(tries: int) -> float:
    """Seconds before the next try.

    Doubling, with jitter, so that many clients do not come back at the same moment.
    """
    return min(FIRST_PAUSE * 2.0 ** min(tries - 1, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def asked_pause(reply: Reply, deadline: float) -> float | None:
    """The seconds of `Retry-After` (a number or a date, RFC 9110), no longer than until the deadline.

    None without it.
    """
    said = reply.headers.get("Retry-After")
    if not said:
        return None
    try:
        seconds = float(said) if said.isdigit() else parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), max(deadline - time.monotonic(), 0.0))


def unreachable(server: Server, call: Call, lost: ConnectionLost) -> str:
    sure = (
        ""
        if call.repeatable or not lost.sent
        else " Whether the request was carried out is not known; look before you repeat it."
    )
    return f"The coordinator at {server.url} does not answer ({lost}); check the address and that it runs.{sure}"


def refusal(server: Server, reply: Reply) -> Exception:
    """The error that an answer with a status of 400 or more means."""
    body = reply.json
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return Unreachable(
            f"What answers at {server.url} is no coordinator, or something before it refused the request (status"
            f" {reply.status}); check the address."
        )
    kind = {401: NotAllowed, 403: NotAllowed, 404: NotFound}.get(reply.status, Refused)
    errors = body.get("errors")
    if reply.status >= 500:
        return Unreachable(body["message"])
    return kind(body["message"], reply.status, errors if isinstance(errors, dict) else None, body.get("index"))


def fetch(server: Server, path: str, *params: tuple[str, str], timeout: float = 30.0) -> Generator[Any, Any, Any]:
    """The JSON of a GET."""
    reply = yield from send(server, Call("GET", path, params, timeout=timeout))
    return as_json(server, reply)


def as_json(server: Server, reply: Reply) -> Any:
    """The JSON of an answer. Raises Unreachable if it is none: something else answered."""
    if not reply.content:
        return None
    body = reply.json
    if body is None:
        raise Unreachable(
            f"What answers at {server.url} is no coordinator: its answer is not JSON; check the address."
        )
    return body


def known(server: Server) -> Generator[Any, Any, frozenset[str]]:
    """The extensions that the coordinator announces; asks it if nothing is known yet."""
    if server.extensions is None:
        yield from send(server, Call("GET", "/healthz"))
    return server.extensions or frozenset()


def require(server: Server, extension: str, what: str) -> Generator[Any, Any, None]:
    """Raise NotSupported unless the coordinator announces an extension."""
    if extension not in (yield from known(server)):
        raise NotSupported(
            f"The coordinator at {server.url} does not know {what}; update it, or leave that away. Nothing"
            f" was sent."
        )
