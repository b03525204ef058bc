"""What is ours in how gunicorn serves: an end that nobody has to wait for, refusals in JSON, a place to count."""

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
    """A process that ends soon when it shall: who waits for work is answered."""

    def notify(self) -> None:
        """Called every second, also while the process comes to its end."""
        super().notify()
        if not self.alive:
            self.wsgi.extensions["kelpie"].waiting.close()


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """What is no HTTP never reaches the application; it is refused in JSON like everything else."""
    body = json.dumps(
        {"error": reason, "message": f"{message or reason}."} | ({"errors": {}} if status == 400 else {})
    )
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


def folder_for_counts(base: Path = SHARED_MEMORY) -> Path:
    """A new folder for what the web processes count, in memory where there is some: the disk may be read-only.

    Its lock lasts as long as this gunicorn; those that nobody locks were left behind by a kill.
    """
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    for old in base.glob(f"{COUNTS}*/lock"):
        try:
            with old.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
        except OSError:
            continue  # in use, somebody else's, or removed meanwhile
    folder = Path(tempfile.mkdtemp(prefix=COUNTS, dir=base))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder
