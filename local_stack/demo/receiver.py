"""The user's side of the webhooks: a small web server that records what it receives."""

import json
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class WebhookReceiver:
    """A context manager; `received` maps a job's id to the webhooks for it: {webhook id: status}."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.received: dict[str, dict[str, str]] = defaultdict(dict)
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self.url = f"http://{address}:{self._server.server_port}/kelpie"

    def __enter__(self) -> "WebhookReceiver":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, status: str) -> int:
        """For how many different jobs it received this status."""
        return sum(status in webhooks.values() for webhooks in list(self.received.values()))

    def total(self) -> int:
        return sum(map(len, list(self.received.values())))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                # A webhook that is delivered twice has the same id, so that it counts once.
                received[body["job_id"]][self.headers["webhook-id"]] = body["status"]
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing: the demo itself prints what was received."""

        return Handler
