"""The other end of the webhooks: real HTTP servers, and one look of the sender at the outbox."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

from kelpie_api.db import Database, Row
from kelpie_api.webhooks.sender import Sender
from tests.helpers import Client


@dataclass
class Receiver:
    """A real HTTP server that records what it gets and gives the answers set by the test, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def answer(self, headers: dict[str, str], body: bytes) -> int:
        self.got.append({"headers": headers, "body": json.loads(body), "bytes": body})
        return self.answers.pop(0) if self.answers else 200

    @property
    def statuses(self) -> list[str]:
        return [webhook["body"]["status"] for webhook in self.got]

    @property
    def ids(self) -> list[str]:
        return [webhook["headers"]["webhook-id"] for webhook in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.answer(headers | {":path": self.path}, body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{receiver.url}elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def listening(converse: Callable[[Any], object]) -> Iterator[int]:
    """A server that says what `converse` says to each connection; its port."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            converse(self.request)

    class Server(ThreadingTCPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def send_round(sender: Sender) -> int:
    """One look at the outbox, and all it took is sent; the number taken."""
    with ThreadPoolExecutor(8) as pool:
        return sender.round(pool)


def make_due(db: Database) -> None:
    db.execute("update webhooks set next_try = now() where next_try is not null")


def outbox(db: Database) -> list[Row]:
    return db.all("select *, next_try - now() as pause from webhooks order by seq")


def run_job(api: Client, receiver: Receiver, report: str, **fields: Any) -> str:
    """A job that is claimed and reported once; its id."""
    job = api.submit(webhook=receiver.url, **fields)
    api.claim()
    api.report(job, report, group="g-of-the-report", attempt=1)
    return str(job["id"])
