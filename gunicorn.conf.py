"""How gunicorn serves the API. Settings on the command line or in GUNICORN_CMD_ARGS come before these."""

import json
import os
import socket
import sys

import gunicorn.util
from gunicorn.arbiter import Arbiter

from kelpie_api import refuse_old_schema
from kelpie_api.config import Config
from kelpie_api.errors import ConfigError, SchemaError

bind = os.environ.get("KELPIE_BIND", "0.0.0.0:8080")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gthread"
threads = 16
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
