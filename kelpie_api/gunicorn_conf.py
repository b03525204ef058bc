"""How gunicorn serves the API. Settings on the command line or in GUNICORN_CMD_ARGS come before these."""

import gc
import os
import shutil
import sys
from pathlib import Path

import gunicorn.http.message
import gunicorn.util
from gunicorn.arbiter import Arbiter

from kelpie_api.config import Config
from kelpie_api.errors import ConfigError, SchemaError
from kelpie_api.web import gunicorn_worker

try:
    settings = Config.from_env(os.environ)
except ConfigError as error:
    sys.exit("\n".join(f"kelpie: {sentence}" for sentence in error.sentences))

# Before anything imports prometheus_client, which looks for it only then. A reload keeps what there is.
if settings.metrics_folder is None:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(gunicorn_worker.folder_for_counts())

import kelpie_api.app  # noqa: F401 - before processes are forked, which then share its pages
from kelpie_api import metrics
from kelpie_api.database_check import refuse_unfit_database

bind = settings.bind
workers = settings.web_processes
# Threads, not greenlets: a request that computes for seconds (a thousand jobs with patterns) slows the others of
# its process down but stops none, so no worker loses its lease because of it.
worker_class = gunicorn_worker.Worker
# As many as may wait for work and for output, and plenty for others; they are created when they are needed.
threads = settings.max_waiters + settings.max_readers + 64
worker_connections = threads + gunicorn_worker.connections_kept(threads)  # those between two take no thread
# Clients reuse a connection that was idle for up to a minute.
keepalive = 75
timeout = 60
graceful_timeout = 30
# Memory that a library leaks is given back now and then, never by all processes at once.
max_requests = 1_000_000
max_requests_jitter = 200_000
# Five hundred ids in a query; gunicorn takes no higher limit than its own.
limit_request_line = gunicorn.http.message.MAX_REQUEST_LINE = 32_768
limit_request_fields = 100
control_socket_disable = True
forwarder_headers = ""  # no client says below which path the API lies
errorlog = "-"


gunicorn.util.write_error = gunicorn_worker.write_error


def on_starting(server: Arbiter) -> None:
    """Say in one sentence what keeps the API from starting, before any process is made."""
    try:
        refuse_unfit_database(settings)
    except (ConfigError, SchemaError) as error:
        sys.exit(f"kelpie: {error}")


# Seconds that a thread which computes, as for a page, may keep the others waiting. Python's own 5 ms pass at each
# step of a request; a tenth of that takes hardly more processor time, as few threads compute at once.
TURN = 0.0005


# Objects by which a process grows until it looks for garbage among the young ones; how many of these looks go
# before one among those that stayed, and how many of the latter before one among all. Thousands of requests that
# wait have a million objects, and to go through them takes a third of a second, in which no thread runs. With
# Python's own 700 that came every few seconds.
GARBAGE = (20_000, 10, 100)


def post_worker_init(worker: gunicorn_worker.Worker) -> None:
    """Have threads take turns often, search for garbage seldom, and leave what the start made out of each search.

    That stays as long as the process, and to go through all of it takes tens of milliseconds, in which no thread
    runs.
    """
    sys.setswitchinterval(TURN)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def child_exit(server: Arbiter, worker: gunicorn_worker.Worker) -> None:
    """Keep the counts of a process that ended. An error here is logged and does not end the server."""
    folder = metrics.shared_folder()
    try:
        if folder:
            metrics.keep_counts_of_ended(Path(folder), living=set(server.WORKERS) - {worker.pid})
    except OSError as error:
        server.log.warning("The counts of process %s were not kept: %s", worker.pid, error)


def on_exit(server: Arbiter) -> None:
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if folder.name.startswith(gunicorn_worker.COUNTS):
        shutil.rmtree(folder, ignore_errors=True)
