"""How gunicorn serves the API. Settings on the command line or in GUNICORN_CMD_ARGS come before these."""

from gevent import monkey

monkey.patch_all()  # before anything else is imported: psycopg looks at its import whether it has been done

import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import gevent
import gunicorn.util
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as AnyWorker
from gunicorn.workers.ggevent import GeventWorker

METRICS = "kelpie-metrics-"
SHARED_MEMORY = Path("/dev/shm")


def folder_for_metrics() -> Path:
    """A new folder for what the web processes count, in memory where there is some: the disk may be read-only.

    Its lock lasts as long as this gunicorn; those that nobody locks were left behind by a kill.
    """
    base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    for old in base.glob(f"{METRICS}*/lock"):
        try:
            with old.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old.parent, ignore_errors=True)
        except OSError:
            continue  # in use, somebody else's, or removed meanwhile
    folder = Path(tempfile.mkdtemp(prefix=METRICS, dir=base))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_WRONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder


# Before anything imports prometheus_client, which looks for it only then. A reload keeps what there is.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder_for_metrics())

from kelpie_api import metrics, refuse_old_schema
from kelpie_api.config import Config, whole_number
from kelpie_api.errors import ConfigError, SchemaError


class Worker(GeventWorker):
    """A process that ends soon when it shall: who waits for work is answered, idle connections are closed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.idle = set()

    def timeout_ctx(self):
        return Idle(self)

    def notify(self):
        """Called every second, also while the process comes to its end."""
        super().notify()
        if not self.alive:
            self.wsgi.extensions["kelpie"].waiting.close()
            for connection in list(self.idle):
                connection.end()


class Idle:
    """The time between two requests of a connection, in which it may be closed."""

    def __init__(self, worker):
        self.worker = worker
        self.greenlet = gevent.getcurrent()
        self.timeout = gevent.Timeout(worker.cfg.keepalive, False)

    def __enter__(self):
        self.worker.idle.add(self)
        self.timeout.start()
        if not self.worker.alive:
            self.end()

    def __exit__(self, kind, error, trace):
        self.worker.idle.discard(self)
        return self.timeout.__exit__(kind, error, trace)

    def end(self):
        gevent.get_hub().loop.run_callback(self.run_out)

    def run_out(self):
        """As if its time had run out; unless a request came in the meantime."""
        if self in self.worker.idle:
            self.greenlet.throw(self.timeout)


bind = os.environ.get("KELPIE_BIND", "0.0.0.0:8080")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = Worker
# As many as may wait for work, and plenty for everybody else.
try:
    worker_connections = whole_number(os.environ, "KELPIE_MAX_WAITERS", Config.max_waiters) + 500
except ConfigError as error:
    sys.exit(f"kelpie: {error}")
# Clients reuse a connection that was idle for up to a minute.
keepalive = 75
timeout = 60
graceful_timeout = 30
# Memory that a library leaks is given back now and then, never by all processes at once.
max_requests = 100_000
max_requests_jitter = 20_000
limit_request_line = 8190
limit_request_fields = 100
control_socket_disable = True
errorlog = "-"


def write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    """What is no HTTP never reaches the application; it is refused in JSON like everything else."""
    body = json.dumps(
        {"error": reason, "message": f"{message or reason}."} | ({"errors": {}} if status == 400 else {})
    )
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


gunicorn.util.write_error = write_error


def on_starting(server: Arbiter) -> None:
    """Say in one sentence what keeps the API from starting, before any process is made."""
    try:
        refuse_old_schema(Config.from_env(os.environ))
    except (ConfigError, SchemaError) as error:
        sys.exit(f"kelpie: {error}")


def child_exit(server: Arbiter, worker: AnyWorker) -> None:
    """What a process counted stays counted after its end. No trouble with that may end the server."""
    folder = metrics.shared_folder()
    try:
        if folder:
            metrics.keep_counts_of_ended(Path(folder), living=set(server.WORKERS) - {worker.pid})
    except OSError as error:
        server.log.warning("The counts of process %s were not kept: %s", worker.pid, error)


def on_exit(server: Arbiter) -> None:
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if folder.name.startswith(METRICS):
        shutil.rmtree(folder, ignore_errors=True)
