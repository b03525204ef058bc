"""Salad's container groups as they can be started, stopped and scaled, with the trouble that Salad may have."""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any

from werkzeug.wrappers import Request, Response

from tests.doubles.double import Answer
from tests.doubles.salad import LONG_AGO, Project, SaladDouble, problem

KEY = "the coordinator's own key"


class FleetDouble(SaladDouble):
    """Knows one key, good for the projects that have groups. `trouble` is answered first, one for each request
    whose method and path contain its word; `latency` is in seconds; `changes` are the calls that changed
    something."""

    def __init__(self, port: int = 0) -> None:
        self.trouble: list[tuple[str, Answer]] = []
        self.latency = 0.0
        self.start_held: threading.Event | None = (
            None  # a start is carried out, but answered only once this is set
        )
        self.changes: list[tuple[str, str, Any]] = []  # what, the group's name, replicas
        self.requests: list[tuple[float, str]] = []  # when, which
        self.moved: dict[str, str] = {}  # instances that were reallocated, and the machines they are on now
        super().__init__(port)

    def add_group(self, organization: str, project: str, group_id: str | None = None, **fields: Any) -> str:
        self.allow(KEY, organization, project)
        return super().add_group(organization, project, group_id, **fields)

    def make_group(
        self, status: str = "stopped", replicas: int = 0, project: Project = ("acme", "default")
    ) -> str:
        """A group in one of Salad's six states; its id."""
        group_id = self.add_group(*project, replicas=replicas)
        self.group(group_id)["current_state"]["status"] = status
        return group_id

    def group(self, group_id: str) -> dict[str, Any]:
        return next(group for groups in self.groups.values() for group in groups if group["id"] == group_id)

    def standing(self, group_id: str) -> tuple[str, int]:
        group = self.group(group_id)
        return group["current_state"]["status"], group["replicas"]

    def vanish(self, group_id: str) -> None:
        for groups in self.groups.values():
            groups[:] = [group for group in groups if group["id"] != group_id]

    def _answer(self, request: Request) -> Response:
        line = f"{request.method} {request.path}"
        self.requests.append((time.monotonic(), line))
        time.sleep(self.latency)
        for place, (word, answer) in enumerate(self.trouble):
            if word in line:
                del self.trouble[place]
                return answer()
        return super()._answer(request)

    def respond(self, request: Request) -> Response:
        match request.path.removeprefix(self.base).strip("/").split("/"):
            case ["organizations", organization, "projects", project, "containers", name, *what]:
                refusal = self._refusal(request.headers["Salad-Api-Key"], (organization, project))
                return refusal or self._on_group(request, (organization, project), name, "/".join(what))
        return super().respond(request)

    def _refusal(self, key: str, project: Project) -> Response | None:
        if key not in self.keys:
            return problem(401, "Unauthorized")
        return None if project in self.keys[key] else problem(403, "Forbidden")

    def _on_group(self, request: Request, project: Project, name: str, what: str) -> Response:
        group = next((group for group in self.groups[project] if group["name"] == name), None)
        if group is None:
            return problem(404, "Not Found")
        match request.method, what:
            case "GET", "":
                return answer(group)
            case "GET", "instances":
                return answer({"instances": self.instances(group)})
            case "PATCH", "":
                return self._patch(group, json.loads(request.data))
            case "POST", "start":
                return self._move(group, "start", "deploying")
            case "POST", "stop":
                return self._move(group, "stop", "stopped")
        match request.method, what.split("/"):
            case "POST", ["instances", instance_id, "reallocate"]:
                return self._reallocate(group, instance_id)
        raise AssertionError(f"{request.method} {request.path} is not stood for yet")

    def instances(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            instance | {"machine_id": self.moved.get(instance["id"], instance["machine_id"])}
            for instance in instances(group)
        ]

    def _reallocate(self, group: dict[str, Any], instance_id: str) -> Response:
        if instance_id not in {instance["id"] for instance in self.instances(group)}:
            return problem(404, "Not Found")
        self.changes.append(("reallocate", group["name"], instance_id))
        self.moved[instance_id] = str(uuid.uuid4())
        return Response(status=202)

    def _patch(self, group: dict[str, Any], change: dict[str, Any]) -> Response:
        self.changes.append(("scale", group["name"], change["replicas"]))
        group |= change
        return answer(group, "application/merge-patch+json")

    def _move(self, group: dict[str, Any], what: str, status: str) -> Response:
        self.changes.append((what, group["name"], None))
        group["current_state"]["status"] = status
        if what == "start" and self.start_held:
            self.start_held.wait(60)
        return Response(status=202)


def answer(document: Any, content_type: str = "application/json") -> Response:
    return Response(json.dumps(document), content_type=content_type)


def instances(group: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{group['id']} instance {number}")),
            "machine_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"machine {number}")),
            "state": "running",
            "update_time": LONG_AGO,
            "version": 1,
        }
        for number in range(group["replicas"])
    ]
