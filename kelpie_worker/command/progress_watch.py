"""When the progress of a running command is told, from its progress file and from lines of its output."""

from __future__ import annotations

import threading
from collections.abc import Collection

from kelpie_worker.command.progress import Document, has_moved, presentable, with_lines
from kelpie_worker.command.progress_file import ProgressFile
from kelpie_worker.command.progress_lines import ProgressLines
from kelpie_worker.job import Job
from kelpie_worker.messages import Progressed
from kelpie_worker.processes.child import Tell
from kelpie_worker.workspace.progress_folder import progress_path

_LOOK_EVERY = 1.0  # seconds
_LAST_LOOK = 0.5  # seconds for a last look at the file of a command that has ended


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
