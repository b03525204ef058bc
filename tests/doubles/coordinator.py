"""A coordinator that says what a test wants it to say: real HTTP, scripted answers, no database.

It keeps a lease as the real one does (which machine holds which attempt), so that a worker's reports are judged;
what goes wrong is switched on by the test: `down`, `verdicts`, or no extensions at all (the original API).
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

EXTENSIONS = "attempt, checkpoint, claim-id, release"
STEERING = f"{EXTENSIONS}, phase, progress, output, steer"


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    headers: dict[str, str]
    content: bytes = b""


@dataclass
class Handout:
    job: dict[str, Any]
    attempt: int = 0
    claim_id: str | None = None
    status: str = "pending"
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    manifests: list[dict[str, Any]] = field(default_factory=list)
    resumes: list[dict[str, Any]] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    speaks: str | None = None
    output: list[tuple[int, bytes]] = field(default_factory=list)  # the pieces, and the offset of each

    @property
    def end(self) -> int:
        """The offset after the last byte of the output."""
        return self.output[-1][0] + len(self.output[-1][1]) if self.output else 0


class FakeCoordinator:
    """Serves on 127.0.0.1 from construction to `close`."""

    def __init__(self, extensions: str = EXTENSIONS) -> None:
        self.extensions = extensions
        self.down = False  # every request is answered with 503
        self.admits: Callable[[Call], bool] = lambda call: True  # else it is answered with 401
        self.known = False  # whether it has a route that shows the caller
        self.date: str | None = None  # of its answers, if not now
        self.redirects_to: str | None = None  # every request is sent on to the same path there
        self.held_back = False  # an empty answer to a claim takes as long as the claim may wait
        self.late: threading.Event | None = (
            None  # a claim that may wait is carried out, and answered once this is set
        )
        self.wishes: dict[str, Any] = {}  # what heartbeats of running jobs are answered besides
        self.counts = True  # failures, as the answer says
        self.refuses_output: int | None = None  # the status of the answer to each piece
        self.takes_output: threading.Event | None = None  # a piece is answered once this is set
        self.calls: list[Call] = []
        self._silent: set[str] = set()
        self._handouts: dict[str, Handout] = {}
        self._lock = threading.Lock()
        coordinator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                coordinator._serve(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                """Quiet: a test prints what it needs."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- what tests say and ask ---------------------------------------------------------------------

    def submit(self, **fields: Any) -> str:
        job_id = str(uuid.uuid4())
        defaults = {"id": job_id, "arguments": [], "environment": {}, "heartbeat_interval": 1, "num_failures": 0}
        with self._lock:
            self._handouts[job_id] = Handout({**defaults, **fields})
        return job_id

    def cancel(self, job_id: str) -> None:
        self._handouts[job_id].status = "canceled"

    def status(self, job_id: str) -> str:
        return self._handouts[job_id].status

    def attempts(self, job_id: str) -> int:
        return self._handouts[job_id].attempt

    def reports(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The accepted reports in order: (`completed`, its body), ..."""
        return list(self._handouts[job_id].reports)

    def manifests(self, job_id: str) -> list[dict[str, Any]]:
        """The accepted manifests in order."""
        return list(self._handouts[job_id].manifests)

    def resumes(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._handouts[job_id].resumes)

    def beats(self, job_id: str) -> list[dict[str, Any]]:
        """The bodies of the accepted heartbeats in order."""
        return list(self._handouts[job_id].beats)

    def speaks(self, job_id: str) -> str | None:
        """What the claim of the last attempt named."""
        return self._handouts[job_id].speaks

    def pieces(self, job_id: str) -> list[tuple[int, bytes]]:
        """The accepted pieces of output, each with its offset."""
        return list(self._handouts[job_id].output)

    def output(self, job_id: str) -> bytes:
        return b"".join(content for _, content in self._handouts[job_id].output)

    def hand_out_again(self, job_id: str) -> None:
        """As after a release: the next claim gets it."""
        self._handouts[job_id].status = "pending"

    def heartbeats(self, job_id: str) -> int:
        return sum(call.path == f"/jobs/{job_id}/heartbeat" for call in self.calls)

    def hand_to_another(self, job_id: str) -> None:
        """As if another worker had claimed the job after a lapse."""
        with self._lock:
            self._handouts[job_id].attempt += 1

    @contextmanager
    def silent(self, path: str) -> Iterator[None]:
        """Carry out requests to that path, but drop their answers while the context lasts."""
        self._silent.add(path)
        yield
        self._silent.discard(path)

    # --- HTTP ---------------------------------------------------------------------------------------

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        content = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        is_json = request.headers.get("Content-Type") != "application/octet-stream"
        call = Call(
            method=request.command,
            path=url.path,
            query={name: values[0] for name, values in parse_qs(url.query).items()},
            body=json.loads(content or b"{}") if is_json else {},
            headers=dict(request.headers),
            content=content,
        )
        with self._lock:
            status, answer = (503, {"error": "down"}) if self.down else self._answer(call)
            self.calls.append(call)
        if self.held_back and call.path == "/work" and answer == []:
            threading.Event().wait(float(call.query.get("wait", 0)))
        if self.late and call.path == "/work" and "wait" in call.query:
            self.late.wait(60)
        if self.takes_output and call.path.endswith("/output"):
            self.takes_output.wait(60)
        if call.path in self._silent:
            request.close_connection = True
            return
        content = json.dumps(answer).encode()
        request.send_response_only(307 if self.redirects_to else status)
        request.send_header("Date", self.date or request.date_time_string())
        if self.redirects_to:
            request.send_header("Location", self.redirects_to + request.path)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        if self.extensions:
            request.send_header("Kelpie-Extensions", self.extensions)
        request.end_headers()
        request.wfile.write(content)

    def _answer(self, call: Call) -> tuple[int, Any]:
        if not self.admits(call):
            return 401, {"error": "Unauthorized", "message": "Try another key."}
        if call.path == "/work":
            return 200, self._claim(call.query.get("claim_id"), call.query.get("speaks"))
        if call.path == "/users/me" and self.known:
            return 200, {"id": "1", "username": "acme", "created": None}
        match call.path.strip("/").split("/"):
            case ["jobs", job_id] if job_id in self._handouts:
                return 200, self._shown(self._handouts[job_id])
            case ["jobs", job_id, "output"] if job_id in self._handouts:
                return self._take_output(self._handouts[job_id], call)
            case ["jobs", job_id, report] if job_id in self._handouts:
                return self._report(self._handouts[job_id], report, call.body)
        return 404, {"error": "Route Not Found"}

    def _claim(self, claim_id: str | None, speaks: str | None = None) -> list[dict[str, Any]]:
        for handout in self._handouts.values():
            if claim_id and handout.status == "running" and handout.claim_id == claim_id:
                return [self._shown(handout)]
        for handout in self._handouts.values():
            if handout.status == "pending":
                handout.status, handout.claim_id = "running", claim_id
                handout.attempt += 1
                handout.speaks = speaks
                newest = handout.manifests[-1:] if "checkpoint" in self.extensions else []
                return [self._shown(handout) | ({"checkpoint": newest[0]} if newest else {})]
        return []

    def _shown(self, handout: Handout) -> dict[str, Any]:
        shown = {**handout.job, "status": handout.status}
        return {**shown, "attempt": handout.attempt} if "attempt" in self.extensions else shown

    def _keep(self, handout: Handout, report: str, body: dict[str, Any]) -> tuple[int, Any]:
        (handout.manifests if report == "checkpoint" else handout.resumes).append(body)
        known = [kept["generation"] for kept in handout.manifests if kept["attempt"] == handout.attempt]
        return 200, {"message": "Resume reported"} if report == "resumed" else {"generation": max(known)}

    def _report(self, handout: Handout, report: str, body: dict[str, Any]) -> tuple[int, Any]:
        holds = body.get("attempt") in (None, handout.attempt) and handout.status == "running"
        if report in ("checkpoint", "resumed") and holds:
            return self._keep(handout, report, body)
        if report == "heartbeat":
            handout.beats += [body] if holds else []
            return 200, {"status": "running", **self.wishes} if holds else {"status": "canceled"}
        if (report, body) in handout.reports:
            return 200, {"message": f"{report} reported"}
        if not holds:
            return 409, {"error": "Not Yours", "message": "The attempt is not live."}
        handout.reports.append((report, body))
        handout.status = {"completed": "completed", "failed": "failed", "released": "released"}[report]
        counted = {} if self.counts or report != "failed" else {"counted": False}
        return 200, {"message": f"{report} reported", **counted}

    def _take_output(self, handout: Handout, call: Call) -> tuple[int, Any]:
        """Each byte is kept once, by its offset."""
        start, content = int(call.query["from"]), call.content
        if call.query.get("attempt") != str(handout.attempt) or handout.status != "running":
            return 409, {"error": "Not Yours", "message": "The attempt is not live."}
        if self.refuses_output:
            return self.refuses_output, {"error": "Refused", "message": "Not this piece."}
        known = max(0, handout.end - start)
        if content[known:]:
            handout.output.append((start + known, content[known:]))
        return 200, {"next": handout.end, **self.wishes}
