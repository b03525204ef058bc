"""When the output of a running command is told: how much it is, and pieces of its end."""

from __future__ import annotations

from kelpie_worker.command.output_tail import OutputTail
from kelpie_worker.job import Job
from kelpie_worker.messages import Printed
from kelpie_worker.processes.child import Tell
from kelpie_worker.system.linux import boottime

_TELL_EVERY = 1.0  # seconds
_WATCHED_PIECE_EVERY, _PIECE_EVERY = 1.0, 10.0  # seconds
_SOON = 3  # so many pieces of a command go a second apart, read along or not
_EARLY = 0.25  # seconds by which a piece may come before its time: looks are half a second apart


class OutputWatch:
    """Tells how much was printed, and hands out the end of it in pieces where the job has it kept.

    `look` is to be called about twice a second. What is printed faster than the pieces go is left out between two.
    The first pieces go a second apart, then the pause doubles up to the usual one: the answer to a piece says
    whether the output is read along, which often begins with the job, or a second or two after it.
    """

    def __init__(self, job: Job, tail: OutputTail, tell: Tell) -> None:
        self.is_followed = False  # a reader follows it
        self._job = job
        self._tail = tail
        self._tell = tell
        self._told = 0  # bytes
        self._told_at = self._sent_at = -_PIECE_EVERY  # CLOCK_BOOTTIME
        self._sent = 0  # the offset after the last piece
        self._pieces = 0  # how many were handed out
        self._pause = 0.0  # seconds before the next one, while its output is not read along

    def look(self, final: bool = False) -> None:
        now, total = boottime(), self._tail.total
        start, content = self._piece(now, final) if total > self._sent else (0, b"")
        if content or (total != self._told and (final or now - self._told_at >= _TELL_EVERY)):
            self._told, self._told_at = total, now
            self._tell(Printed(self._job.claim_id, total, start, content))

    def _piece(self, now: float, final: bool) -> tuple[int, bytes]:
        pause = _WATCHED_PIECE_EVERY if self.is_followed else self._pause
        if not self._job.steering.keep_output or (now - self._sent_at < pause - _EARLY and not final):
            return 0, b""
        start, content = self._tail.since(self._sent, final)
        if content:
            self._sent, self._sent_at = start + len(content), now
            self._pieces += 1
            self._pause = _WATCHED_PIECE_EVERY if self._pieces < _SOON else min(pause * 2, _PIECE_EVERY)
        return start, content
