"""What is seen of a running command from outside: how far it is, and what it prints."""

from __future__ import annotations

import threading
from collections.abc import Collection

from kelpie_worker.command.output_tail import OutputTail
from kelpie_worker.command.progress import Document, has_moved, presentable, with_lines
from kelpie_worker.command.progress_file import ProgressFile
from kelpie_worker.command.progress_lines import ProgressLines
from kelpie_worker.job import Job
from kelpie_worker.messages import Printed, Progressed
from kelpie_worker.processes.child import Tell
from kelpie_worker.system.linux import boottime
from kelpie_worker.workspace.progress_folder import progress_path

_LOOK_EVERY = 1.0  # seconds
_LAST_LOOK = 0.5  # seconds for a last look at the file of a command that has ended
_WATCHED_PIECE_EVERY, _PIECE_EVERY = 1.0, 10.0  # seconds
_EARLY = 0.25  # seconds by which a piece may come before its time: looks are half a second apart


class ProgressWatch:
    """Tells of progress when it has changed. In a thread of its own: a look at the file may wait for a disk."""

    def __init__(
        self, job: Job, state_file: str, lines: ProgressLines, secrets: Collection[bytes], tell: Tell
    ) -> None:
        self._job = job
        self._file = ProgressFile(progress_path(state_file, job.claim_id), job)
        self._lines = lines
        self._secrets = secrets
        self._tell = tell
        self._document: Document = {}
        self._heard: tuple[float | None, str | None] = (None, None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """The command has ended: look once more."""
        self._ended.set()
        self._thread.join(_LAST_LOOK)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            self._look()
        self._look()

    def _look(self) -> None:
        before, told = self._document, self._file.look()
        if told is not None:
            self._document = presentable(told, self._secrets)
        if (heard := (self._lines.percent, self._lines.status)) != self._heard:
            self._heard = heard
            self._document = with_lines(self._document, *heard, self._secrets)
        if self._document != before:
            self._tell(Progressed(self._job.claim_id, self._document, has_moved(before, self._document)))


class OutputWatch:
    """Tells how much was printed, and hands out the end of it in pieces where the job has it kept.

    `look` is to be called about twice a second. What is printed faster than the pieces go is left out between two.
    The first pieces go a second apart, and the pause doubles up to the usual one: the answer to a piece says
    whether the output is read along, which often begins with the job.
    """

    def __init__(self, job: Job, tail: OutputTail, tell: Tell) -> None:
        self.is_followed = False  # someone reads along
        self._job = job
        self._tail = tail
        self._tell = tell
        self._told = 0  # bytes
        self._told_at = self._sent_at = -_PIECE_EVERY  # CLOCK_BOOTTIME
        self._sent = 0  # the offset after the last piece
        self._pause = 0.0  # seconds before the next one, while its output is not read along

    def look(self, final: bool = False) -> None:
        now, total = boottime(), self._tail.total
        start, content = self._piece(now, final) if total > self._sent else (0, b"")
        if content or (total != self._told and (final or now - self._told_at >= _LOOK_EVERY)):
            self._told, self._told_at = total, now
            self._tell(Printed(self._job.claim_id, total, start, content))

    def _piece(self, now: float, final: bool) -> tuple[int, bytes]:
        pause = _WATCHED_PIECE_EVERY if self.is_followed else self._pause
        if not self._job.steering.keep_output or (now - self._sent_at < pause - _EARLY and not final):
            return 0, b""
        start, content = self._tail.since(self._sent, final)
        if content:
            self._sent, self._sent_at = start + len(content), now
            self._pause = min(max(pause * 2, _WATCHED_PIECE_EVERY), _PIECE_EVERY)
        return start, content
