"""Salad's public API, as far as Kelpie uses it. `python -m tests.doubles.salad` runs it by itself."""

from __future__ import annotations

import argparse
import json
import threading
import uuid
from collections import defaultdict
from typing import Any, ClassVar

from werkzeug.wrappers import Request, Response

from tests.doubles.double import Answer, Double

Project = tuple[str, str]  # organization, project
LONG_AGO = "2024-04-19T18:53:31Z"


class SaladDouble(Double):
    """Knows keys, each good for some projects, and the container groups of projects."""

    spec: ClassVar[str] = "salad-cloud.yaml"
    host: ClassVar[str] = "https://api.salad.com/"
    base: ClassVar[str] = "/api/public"

    def __init__(self, port: int = 0) -> None:
        self.keys: dict[str, set[Project]] = defaultdict(set)
        self.groups: dict[Project, list[dict[str, Any]]] = defaultdict(list)
        super().__init__(port)

    @property
    def api_url(self) -> str:
        return self.url + self.base

    def allow(self, key: str, organization: str, project: str) -> None:
        self.keys[key].add((organization, project))

    def revoke(self, key: str) -> None:
        self.keys.pop(key, None)

    def add_group(self, organization: str, project: str, group_id: str | None = None, **fields: Any) -> str:
        """A container group of a project; its id."""
        group = container_group(organization, project, group_id or str(uuid.uuid4())) | fields
        self.groups[organization, project].append(group)
        return str(group["id"])

    def respond(self, request: Request) -> Response:
        key = request.headers["Salad-Api-Key"]
        match request.method, request.path.removeprefix(self.base).strip("/").split("/"):
            case "GET", ["organizations", organization, "projects", project, "containers"]:
                return self._list(key, (organization, project))
        raise AssertionError(f"{request.method} {request.path} is not stood for yet")

    def _list(self, key: str, project: Project) -> Response:
        if key not in self.keys:
            return problem(401, "Unauthorized")
        if project not in self.keys[key]:
            return problem(403, "Forbidden")
        return Response(json.dumps({"items": self.groups[project]}), mimetype="application/json")


def problem(status: int, title: str, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps({"status": status, "title": title}), status, headers, mimetype="application/json")


def trouble(status: int, title: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: problem(status, title, named)


def container_group(organization: str, project: str, group_id: str) -> dict[str, Any]:
    return {
        "id": group_id,
        "name": f"group-{group_id[:8].lower()}",
        "display_name": "Group",
        "organization_name": organization,
        "project_name": project,
        "container": {
            "command": [],
            "image": "acme/worker:latest",
            "resources": {"cpu": 1, "memory": 1024, "gpu_classes": []},
        },
        "autostart_policy": True,
        "restart_policy": "always",
        "replicas": 1,
        "priority": "batch",
        "country_codes": [],
        "current_state": {
            "status": "running",
            "start_time": LONG_AGO,
            "finish_time": LONG_AGO,
            "instance_status_counts": {
                "allocating_count": 0,
                "creating_count": 0,
                "running_count": 1,
                "stopping_count": 0,
            },
        },
        "pending_change": False,
        "version": 1,
        "scheduled-scaling-enabled": False,
        "scaling-actions": [],
        "create_time": LONG_AGO,
        "update_time": LONG_AGO,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--allow", nargs=3, action="append", default=[], metavar=("KEY", "ORG", "PROJECT"))
    parser.add_argument("--group", nargs=3, action="append", default=[], metavar=("ORG", "PROJECT", "ID"))
    asked = parser.parse_args()
    double = SaladDouble(asked.port)
    for allowed in asked.allow:
        double.allow(*allowed)
    for group in asked.group:
        double.add_group(*group)
    print(double.api_url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
