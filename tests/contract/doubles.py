"""What stands around the coordinator: receivers of webhooks, Salad's public API, and the keys of its tokens."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from local_stack.processes import wait_for

ISSUER = "https://matrix-api.salad.io"
NOTHING = 0  # instead of a status: the connection is closed without an answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """The tests look at what was asked; a log would only be noise."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *args: object) -> None:
        """A caller that hung up is no event."""


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Delivery:
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def status(self) -> str:
        return str(self.json["status"])

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Receives webhooks; each mailbox is a path of its own with its own plan of answers."""

    def __init__(self) -> None:
        self.url = ""
        self.released = threading.Event()  # set at the end, so that held callers go home
        self._deliveries: dict[str, list[Delivery]] = defaultdict(list)
        self._plans: dict[str, list[int]] = {}
        self._always: dict[str, int] = {}
        self._held: dict[str, threading.Event] = {}

    def mailbox(self, plan: tuple[int, ...] = (), always: int = 204, hold: bool = False) -> Mailbox:
        """Answers the statuses of `plan` first, then `always`; `hold`: says nothing until `let_go`."""
        path = f"/{uuid.uuid4().hex}"
        self._plans[path] = list(plan)
        self._always[path] = always
        if hold:
            self._held[path] = threading.Event()
        return Mailbox(self, path)

    def handler(self) -> type[Handler]:
        receiver = self

        class ReceiverHandler(Handler):
            def do_POST(self) -> None:
                status = receiver.take(self.path, Delivery(lowered(self.headers), self.body()))
                self.answer(status, **({"Location": f"{receiver.url}/elsewhere"} if 300 <= status < 400 else {}))

        return ReceiverHandler

    def take(self, path: str, delivery: Delivery) -> int:
        self._deliveries[path].append(delivery)
        if path in self._held:
            self._held[path].wait(60)
        plan = self._plans.get(path)
        return plan.pop(0) if plan else self._always.get(path, 204)

    def deliveries(self, path: str) -> list[Delivery]:
        return list(self._deliveries[path])

    def let_go(self, path: str) -> None:
        self._held[path].set()

    def let_all_go(self) -> None:
        for event in self._held.values():
            event.set()


@dataclass(frozen=True)
class Mailbox:
    receiver: Receiver
    path: str

    @property
    def url(self) -> str:
        return self.receiver.url + self.path

    @property
    def deliveries(self) -> list[Delivery]:
        return self.receiver.deliveries(self.path)

    def receives(self, number: int, timeout: float = 30) -> list[Delivery]:
        """Waits until there were that many tries."""
        wait_for(lambda: len(self.deliveries) >= number, f"{number} webhooks at {self.path}", timeout)
        return self.deliveries

    def let_go(self) -> None:
        self.receiver.let_go(self.path)


def lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Salad:
    """Salad's public API as far as the coordinator asks it, and the endpoint with the keys of its tokens.

    `keys`: which (organization, project) a key opens. `groups`: the container groups of an (organization,
    project). `trouble`: the status answered instead, for one organization.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.trouble: dict[str, int] = {}
        self.own_key = f"own-key-of-the-coordinator-{uuid.uuid4().hex}"
        self.asked: list[tuple[str, str, str]] = []  # organization, project, key
        self.jwks_fetches = 0
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.kid = uuid.uuid4().hex

    def handler(self) -> type[Handler]:
        salad = self

        class SaladHandler(Handler):
            def do_GET(self) -> None:
                if self.path == "/jwks.json":
                    salad.jwks_fetches += 1
                    return self.answer(200, json.dumps(salad.jwks()).encode())
                status, content = salad.listing(self.path, self.headers.get("Salad-Api-Key") or "")
                if status == NOTHING:
                    self.close_connection = True
                    return None
                return self.answer(status, json.dumps(content).encode())

        return SaladHandler

    def listing(self, path: str, key: str) -> tuple[int, Any]:
        match path.split("?")[0].strip("/").split("/"):
            case [*_, "organizations", organization, "projects", project, "containers"]:
                place = (organization, project)
                self.asked.append((organization, project, key))
            case _:
                return 404, problem("Not Found", 404)
        if organization in self.trouble:
            return self.trouble[organization], problem("Trouble", self.trouble[organization])
        if key != self.own_key and place not in self.keys[key]:
            return 403, problem("Forbidden", 403)
        return 200, {"items": [container_group(*place, group) for group in self.groups[place]]}

    def questions(self, key: str) -> int:
        return sum(1 for _, _, asked_with in self.asked if asked_with == key)

    def jwks(self) -> Any:
        return {"keys": [self.public_key()]}

    def public_key(self) -> dict[str, Any]:
        public = ECAlgorithm.to_jwk(self.signing_key.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": "ES256"}

    def claims(self, organization: str, group: str, machine: str, **changes: Any) -> dict[str, Any]:
        """Those of a token that is good; a change to None takes a claim away."""
        now = int(time.time())
        organization_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, organization))
        claims = {
            "iss": ISSUER,
            "sub": str(uuid.uuid5(uuid.NAMESPACE_DNS, machine + group)),
            "aud": organization_id,
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + 300,
            "salad_organization_id": organization_id,
            "salad_organization_name": organization,
            "salad_workload_id": group,
            "salad_workload_name": "a-workload",
            "salad_machine_id": machine,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, organization: str, group: str, machine: str, **changes: Any) -> str:
        return self.sign(self.claims(organization, group, machine, **changes))

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        return jwt.encode(claims, self.signing_key, algorithm="ES256", headers={"kid": self.kid, **header})


def problem(title: str, status: int) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": status, "detail": title}


def container_group(organization: str, project: str, group: str) -> dict[str, Any]:
    moment = "2026-01-02T03:04:05Z"
    return {
        "id": group,
        "name": f"group-{group[:8]}",
        "display_name": "A group",
        "organization_name": organization,
        "project_name": project,
        "container": {
            "command": ["/kelpie"],
            "image": "example/image:1",
            "resources": {"cpu": 1, "memory": 1024, "gpu_classes": []},
            "environment_variables": {},
        },
        "autostart_policy": False,
        "restart_policy": "always",
        "replicas": 1,
        "current_state": {
            "status": "running",
            "description": "",
            "start_time": moment,
            "finish_time": moment,
            "instance_status_counts": {
                "allocating_count": 0,
                "creating_count": 0,
                "running_count": 1,
                "stopping_count": 0,
            },
        },
        "country_codes": [],
        "priority": "high",
        "pending_change": False,
        "scheduled-scaling-enabled": False,
        "scaling-actions": [],
        "version": 1,
        "create_time": moment,
        "update_time": moment,
    }
