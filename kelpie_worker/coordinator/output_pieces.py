"""Sends pieces of output to the coordinator, in order and in the background; what is too much is left out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kelpie_worker import logs
from kelpie_worker.coordinator.client import Api, PieceRefused, Unreachable
from kelpie_worker.job import Job
from kelpie_worker.limits import LARGEST_PIECE
from kelpie_worker.messages import Message, OutputTaken, SendOutput
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import Failure, retry

_BACKOFF = Backoff(0.5, 30.0)


@dataclass
class _Attempt:
    """What is to be sent of one attempt: the bytes from `start` on."""

    start: int = 0
    content: bytes = b""
    is_sending: bool = False
    is_over: bool = False  # the server takes nothing of it any more
    end: int = 0  # the offset after all that was added
    ahead: int | None = 0  # by how much the server's offsets are ahead of ours; None: it is to be asked
    hurried: threading.Event = field(default_factory=threading.Event)  # set: no pause before the next call

    def add(self, start: int, content: bytes) -> None:
        """Append; what does not follow what is waiting, or leaves no room for it, takes its place."""
        if start < self.end:  # the command was begun again within the attempt
            self.ahead = None
        elif self.content and start == self.start + len(self.content):
            start, content = self.start, self.content + content
        self.end = start + len(content)
        self._keep(start, content)

    def put_back(self, start: int, content: bytes) -> None:
        """It could not be sent: it goes before what has come meanwhile."""
        if not self.content:
            self._keep(start, content)
        elif start + len(content) == self.start:
            self._keep(start, content + self.content)

    def pause(self, seconds: float) -> None:
        """Sleep, but not where the end of the attempt waits for the piece."""
        self.hurried.wait(seconds)
        self.hurried.clear()

    def _keep(self, start: int, content: bytes) -> None:
        left_out = max(0, len(content) - LARGEST_PIECE)
        self.start, self.content = start + left_out, content[left_out:]


class OutputPieces:
    """`tell` takes the messages, from any thread."""

    def __init__(self, api: Api, tell: Callable[[Message], None], backoff: Backoff = _BACKOFF) -> None:
        self._api = api
        self._tell = tell
        self._backoff = backoff
        self._changed = threading.Condition()
        self._attempts: dict[str, _Attempt] = {}  # by claim id

    def send(self, piece: SendOutput) -> None:
        """Returns at once."""
        with self._changed:
            fresh = _Attempt(ahead=None if piece.again else 0)
            attempt = self._attempts.setdefault(piece.job.claim_id, fresh)
            if attempt.is_over:
                return
            attempt.add(piece.start, piece.content)
            if attempt.is_sending:
                return
            attempt.is_sending = True
        threading.Thread(target=self._send_all, args=(piece.job, attempt), daemon=True, name="output").start()

    def wait_for(self, claim_id: str, timeout: float) -> None:
        """Have what is left sent at once, and wait until it is answered: after the attempt's end it is refused."""
        with self._changed:
            if attempt := self._attempts.get(claim_id):
                attempt.hurried.set()
                self._changed.wait_for(lambda: not attempt.is_sending, timeout)

    def forget(self, claim_id: str) -> None:
        """The attempt is over."""
        with self._changed:
            if attempt := self._attempts.pop(claim_id, None):
                attempt.is_over, attempt.content = True, b""

    def _send_all(self, job: Job, attempt: _Attempt) -> None:
        while self._has_more(attempt):
            retry(
                partial(self._send_next, job, attempt),
                on=Unreachable,
                backoff=self._backoff,
                pause=attempt.pause,
                until=lambda failure: attempt.is_over,
                on_failure=partial(_tell_failure, job),
            )

    def _has_more(self, attempt: _Attempt) -> bool:
        with self._changed:
            if attempt.content and not attempt.is_over:
                return True
            attempt.is_sending = False
            self._changed.notify_all()
            return False

    def _send_next(self, job: Job, attempt: _Attempt) -> None:
        with self._changed:
            start, content, attempt.content = attempt.start, attempt.content, b""
        try:
            self._send_one(job, attempt, start, content)
        except PieceRefused as refusal:
            logs.warn("output_refused", job, bytes=len(content), detail=str(refusal))
        except Unreachable:
            with self._changed:
                if not attempt.is_over:
                    attempt.put_back(start, content)
                    raise

    def _send_one(self, job: Job, attempt: _Attempt, start: int, content: bytes) -> None:
        if not content:
            return
        if attempt.ahead is None:  # our offsets begin anew, and those of the server go on
            answer = self._api.send_output(job, 0, b"")
            attempt.ahead = answer.end if answer else 0
        answer = self._api.send_output(job, start + attempt.ahead, content)
        if answer is None:
            attempt.is_over = True
            return
        self._tell(OutputTaken(job.claim_id, answer.is_followed))


def _tell_failure(job: Job, failure: Failure[Unreachable]) -> None:
    logs.warn("output_not_sent", job, detail=str(failure.error), failures=failure.number)
