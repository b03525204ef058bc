"""One code path for sync and async: what is done to the coordinator, as generators that do no input or output.

An operation is a generator. It yields what is to be done (a `Call`, a `Pause`, an `Emit`), gets back what came of
it, and returns its result. `run` and `run_async` carry the steps out, with the two kinds of httpx client.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

Result = TypeVar("Result")
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Call:
    """A request. `params` are pairs, since some names come several times.

    `timeout` is in seconds, for each wait.
    """

    method: str
    path: str
    params: Pairs = ()
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0
    repeatable: bool = True  # harmless if it is carried out twice


@dataclass(frozen=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """Hand a value to the caller of an iteration, and go on when it asks for the next."""

    value: Any


@dataclass(frozen=True)
class Reply:
    """An answer of the coordinator, whatever its status."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The JSON of the body; None if it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class ConnectionLost(Exception):
    """No answer came. `sent` is False where the request cannot have reached the coordinator."""

    def __init__(self, sentence: str, sent: bool) -> None:
        super().__init__(sentence)
        self.sent = sent


Step = Call | Pause | Emit
Steps = Generator[Step, Reply | None, Result]


def run(steps: Steps[Result], http: httpx.Client) -> Result:
    """Carry an operation out and return its result."""
    machine = _Machine(steps)
    while (step := machine.next()) is not None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
        elif isinstance(step, Call):
            machine.send(step, http)
    return machine.result


def iterate(steps: Steps[None], http: httpx.Client) -> Iterator[Any]:
    """Carry an operation out, and hand out what it emits."""
    machine = _Machine(steps)
    try:
        while (step := machine.next()) is not None:
            if isinstance(step, Emit):
                yield step.value
            elif isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                machine.send(step, http)
    finally:
        steps.close()


async def run_async(steps: Steps[Result], http: httpx.AsyncClient) -> Result:
    """`run`, without blocking the event loop."""
    machine = _Machine(steps)
    while (step := machine.next()) is not None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Call):
            await machine.send_async(step, http)
    return machine.result


async def iterate_async(steps: Steps[None], http: httpx.AsyncClient) -> AsyncIterator[Any]:
    """`iterate`, without blocking the event loop."""
    machine = _Machine(steps)
    try:
        while (step := machine.next()) is not None:
            if isinstance(step, Emit):
                yield step.value
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                await machine.send_async(step, http)
    finally:
        steps.close()


class _Machine(Generic[Result]):
    """Where an operation stands: what its last step brought, and its result."""

    def __init__(self, steps: Steps[Result]) -> None:
        self.steps = steps
        self.reply: Reply | None = None
        self.lost: ConnectionLost | None = None
        self.result: Result

    def next(self) -> Step | None:
        """The next step; None once there is a result."""
        reply, lost = self.reply, self.lost
        self.reply = self.lost = None
        try:
            return self.steps.throw(lost) if lost else self.steps.send(reply)
        except StopIteration as end:
            self.result = end.value
            return None

    def send(self, call: Call, http: httpx.Client) -> None:
        """Have the answer, or its loss, go into the next step."""
        try:
            self.reply = _as_reply(http.send(_as_request(http, call)))
        except httpx.TransportError as error:
            self.lost = _as_lost(error)

    async def send_async(self, call: Call, http: httpx.AsyncClient) -> None:
        """`send`, without blocking the event loop."""
        try:
            self.reply = _as_reply(await http.send(_as_request(http, call)))
        except httpx.TransportError as error:
            self.lost = _as_lost(error)


def _as_request(http: httpx.Client | httpx.AsyncClient, call: Call) -> httpx.Request:
    return http.build_request(
        call.method,
        call.path,
        params=list(call.params) or None,
        json=call.body,
        headers=dict(call.headers),
        timeout=httpx.Timeout(call.timeout, connect=10.0),
    )


def _as_reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)


def _as_lost(error: httpx.TransportError) -> ConnectionLost:
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return ConnectionLost(str(error) or type(error).__name__, sent=not unsent)
