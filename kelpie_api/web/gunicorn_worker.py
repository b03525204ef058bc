"""Our changes to gunicorn: waiting claims end at shutdown, errors in JSON, a folder for metrics."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gunicorn.util
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from kelpie_api.web.kept_connections import KeptConnections

COUNTS = "kelpie-metrics-"
SHARED_MEMORY = Path("/dev/shm")


class Worker(ThreadWorker):
    """A worker whose threads wait for requests themselves, and which answers its waiting claims when it is to end.

    The main thread accepts connections, and closes those that are idle for too long.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counting = threading.Lock()  # held to change the numbers of threads and of connections
        self.serving = self.idle = 0  # threads, and those of them that wait for a request

    def init_process(self) -> None:
        self.keepalived_conns = KeptConnections[TConn]()  # of this process alone, which is forked by now
        super().init_process()

    def run(self) -> None:
        self._start_thread()
        super().run()

    def notify(self) -> None:
        """Called every second, also while the process is ending."""
        super().notify()
        if not self.alive:
            self.wsgi.extensions["kelpie"].waiting.close()
            self.wsgi.extensions["kelpie"].readers.close()

    def enqueue_req(self, conn: TConn) -> None:
        """Have a new connection served as soon as something comes on it: until then it takes no thread."""
        conn.data_ready = True
        conn.set_timeout()
        self.keepalived_conns.put(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        for conn in self.keepalived_conns.take_overdue(math.inf if force else time.monotonic()):
            self._count_closed()
            conn.close()

    def accept(self, listener: socket.socket) -> None:
        with self.counting:  # which super() adds one to
            super().accept(listener)

    # --- in the threads that serve ---------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            conn = self.keepalived_conns.next_readable()
            if conn is None:
                continue
            with self.counting:
                self.idle -= 1
                is_last = self.idle == 0 and self.serving < self.cfg.threads
            if is_last:
                self._start_thread()
            self._serve_connection(conn)
            with self.counting:
                self.idle += 1

    def _start_thread(self) -> None:
        """Start a thread; where the system has no room for another, those that are there go on."""
        with self.counting:
            self.serving, self.idle = self.serving + 1, self.idle + 1
        try:
            threading.Thread(target=self._serve, daemon=True).start()
        except RuntimeError as error:
            with self.counting:
                self.serving, self.idle = self.serving - 1, self.idle - 1
            self.log.warning("No further thread was started: %s", error)

    def _serve_connection(self, conn: TConn) -> None:
        """Answer what came on a connection; then keep it for the next request, or close it."""
        try:
            is_kept = self.handle(conn)
            while is_kept and conn.parser.unreader.buf.getvalue():  # the next request was read ahead
                is_kept = self.handle(conn)
            if is_kept:
                conn.set_timeout()
                if not self.alive:
                    conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
                self.keepalived_conns.put(conn)
                return
            conn.close(graceful=True)
        except Exception:  # noqa: BLE001 - of this connection alone
            conn.close()
        self._count_closed()

    def _count_closed(self) -> None:
        with self.counting:
            self.nr_conns -= 1
        if not (self.alive and self._accepting):
            self.method_queue.defer(lambda: None)  # wakes the main thread, which waits for this


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
