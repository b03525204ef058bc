"""Our changes to gunicorn: waiting claims end at shutdown, errors in JSON, a folder for metrics."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import gunicorn.util
from gunicorn.workers.gthread import ThreadWorker

COUNTS = "kelpie-metrics-"
SHARED_MEMORY = Path("/dev/shm")


class Worker(ThreadWorker):
    """A worker that answers its waiting claims as soon as it is told to end."""

    def notify(self) -> None:
        """Called every second, also while the process is ending."""
        super().notify()
        if not self.alive:
            self.wsgi.extensions["kelpie"].waiting.close()
            self.wsgi.extensions["kelpie"].readers.close()


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer malformed HTTP, which never reaches the application, with the JSON of all errors."""
    body = json.dumps(
        {"error": reason, "message": f"{message or reason}."} | ({"errors": {}} if status == 400 else {})
    )
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


def folder_for_counts(base: Path = SHARED_MEMORY) -> Path:
    """A new folder for the counts of the web processes, in shared memory if possible: the disk may be read-only.

    It is locked for as long as this gunicorn runs; unlocked ones were left behind by a kill and are removed.
    """
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    for old in base.glob(f"{COUNTS}*/lock"):
        try:
            with old.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
        except OSError:
            continue  # in use, of another user, or removed meanwhile
    folder = Path(tempfile.mkdtemp(prefix=COUNTS, dir=base))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder
