"""The user's side of the webhooks: a small web server that remembers what it hears."""

import json
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class WebhookReceiver:
    """A context manager; `heard` maps a job's id to the webhooks for it: {webhook id: status}."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.heard: dict[str, dict[str, str]] = defaultdict(dict)
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        self.url = f"http://{address}:{self._server.server_port}/kelpie"

    def __enter__(self) -> "WebhookReceiver":
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, status: str) -> int:
        """How many different jobs it heard this status of."""
        return sum(status in webhooks.values() for webhooks in list(self.heard.values()))

    def total(self) -> int:
        return sum(map(len, list(self.heard.values())))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                # One that is delivered twice has the same id: it counts once.
                heard[body["job_id"]][self.headers["webhook-id"]] = body["status"]
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Silence: the story tells what was heard."""

        return Handler
