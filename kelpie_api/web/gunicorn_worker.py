"""Our changes to gunicorn: waiting claims end at shutdown, errors in JSON, a folder for metrics."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import resource
import shutil
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gunicorn.util
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

from kelpie_api.serving_threads import ServingThreads, aside
from kelpie_api.web.connection import is_closed
from kelpie_api.web.kept_connections import KeptConnections

COUNTS = "kelpie-metrics-"
SHARED_MEMORY = Path("/dev/shm")
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # for another connection
PROBE_AFTER, PROBE_PAUSE, LOST_AFTER = 60, 20, 120  # seconds in which nothing comes from a client
# Threads of a process that wait for a request or compute one, and requests under way while these wait for the
# database, to which it has ten connections (bench/README.md, fleet).
PLACES, UNDER_WAY = 4, 14
# Connections that a process keeps between two requests: of a worker that beats every ten or thirty seconds it is
# mostly between two. A client whose connection is closed makes another one for each request, with TLS, and that
# costs the process more than the request.
MOST_KEPT, FEWEST_KEPT = 10_000, 100
OTHER_FILES = 500  # that are no connections of clients
NO_ROOM_PAUSE = 0.1  # seconds until the next try, which finds the same connection


class Worker(ThreadWorker):
    """A worker whose threads wait for requests themselves, and which answers its waiting claims when it is to end.

    The main thread accepts connections, and ends those that are idle for too long.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counting = threading.Lock()  # held to change the number of connections
        self.has_room = True  # for another connection

    def init_process(self) -> None:
        self.keepalived_conns = KeptConnections[TConn]()  # of this process alone, which is forked by now
        self.serving = self._threads()
        for listener in self.sockets:
            if listener.family != socket.AF_UNIX:
                give_up_lost_clients(listener)
        super().init_process()

    def notify(self) -> None:
        """Called every second, also while the process is ending."""
        super().notify()
        self.serving.ensure()
        if not self.alive:
            self.wsgi.extensions["kelpie"].waiting.close()
            self.wsgi.extensions["kelpie"].readers.close()

    def _threads(self) -> ServingThreads[TConn]:
        return ServingThreads(
            self.keepalived_conns.next_readable,
            self._serve_connection,
            self.cfg.threads,
            PLACES,
            UNDER_WAY,
            lambda error: self.log.warning("No further thread was started: %s", error),
        )

    def enqueue_req(self, conn: TConn) -> None:
        """Have a new connection served as soon as something comes on it: until then it takes no thread."""
        conn.data_ready = True
        conn.set_timeout()
        self.keepalived_conns.put(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        self.keepalived_conns.end_overdue(math.inf if force else time.monotonic())

    def accept(self, listener: socket.socket) -> None:
        try:
            with self.counting:  # which super() adds one to
                super().accept(listener)
            self.has_room = True
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            if self.has_room:
                self.log.warning("No further connection is accepted for now: %s", error)
            self.has_room = False
            time.sleep(NO_ROOM_PAUSE)

    # --- in the threads that serve ---------------------------------------------------------------------

    def _serve_connection(self, conn: TConn) -> None:
        """Answer what came on a connection; then keep it for the next request, or close it."""
        try:
            is_kept = not was_ended(conn) and self.handle(conn)
            while is_kept and was_read_ahead(conn):
                is_kept = self.handle(conn)
            if is_kept:
                conn.set_timeout()
                self.keepalived_conns.put(conn)
                if not self.alive:  # asked last: what ends the process may have looked before the put
                    conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
                return
            with aside():  # for the client has to close it, too, at the other end of the world
                conn.close(graceful=True)
        except OSError:  # it was closed already
            conn.close()
        except BaseException:  # even a SystemExit is of this connection alone
            self.log.exception("Error handling a connection")
            conn.close()
        self._count_closed()

    def _count_closed(self) -> None:
        with self.counting:
            self.nr_conns -= 1
        if not (self.alive and self._accepting):
            self.method_queue.defer(lambda: None)  # wakes the main thread, which waits for this


def give_up_lost_clients(listener: socket.socket) -> None:
    """Have connections end whose clients acknowledge nothing any more.

    A machine that is taken away in the middle of a request would have a thread wait for the rest of it for good.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a connection takes these from its listener
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_PAUSE)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_AFTER * 1000)


def was_ended(conn: TConn) -> bool:
    """Whether it was idle for too long. To read from it would have TLS send an alert to its client."""
    return conn.timeout == math.inf and is_closed(conn.sock)


def was_read_ahead(conn: TConn) -> bool:
    """Whether bytes of the next request were read already: no system call tells of them."""
    of_tls = getattr(conn.sock, "pending", int)
    return bool(conn.parser.unreader.buf.getvalue() or of_tls())


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer malformed HTTP, which never reaches the application, with the JSON of all errors."""
    body = json.dumps(
        {"error": reason, "message": f"{message or reason}."} | ({"errors": {}} if status == 400 else {})
    )
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


def files_allowed(wanted: int) -> int:
    """Let this process and its children open so many files, or as many as they may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):  # the kernel's own limit is lower than both
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections_kept(threads: int) -> int:
    """How many connections a process keeps between two requests, beside those that its threads serve.

    Each is a file, and where files are short a request may lack one that it needs.
    """
    others = threads + OTHER_FILES
    return max(FEWEST_KEPT, files_allowed(others + MOST_KEPT) - others)


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
