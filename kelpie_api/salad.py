"""Salad's public API, held to the specification that Salad publishes."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import quote

from kelpie_api.asking import Reply, get, send
from kelpie_api.errors import NoAnswer

LIMIT = 5.0  # seconds for one request
MERGE_PATCH = "application/merge-patch+json"
NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")  # of an organization, a project, a container group


class SaladRefused(Exception):
    """Salad said no: the key is wrong (401), has no right to this project (403), or there is none (404)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Salad answered {status}")
        self.status = status


def is_name(text: str) -> bool:
    """Can this be a name at Salad? What cannot must not get into a path."""
    return NAME.fullmatch(text) is not None


class GroupName(NamedTuple):
    """Where a container group is at Salad, which knows groups by their names."""

    organization: str
    project: str
    group: str

    @property
    def path(self) -> str:
        organization, project, group = (quote(part, safe="") for part in self)
        return f"/organizations/{organization}/projects/{project}/containers/{group}"


class Salad:
    """Calls with the key that each call brings, for the callers' keys are asked about as well as our own."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")

    def container_groups(self, key: str, organization: str, project: str) -> list[dict[str, Any]]:
        """The project's container groups. Raises SaladRefused, NoAnswer."""
        path = f"/organizations/{quote(organization, safe='')}/projects/{quote(project, safe='')}/containers"
        reply = get(self.base_url + path, {"Salad-Api-Key": key, "Accept": "application/json"}, LIMIT)
        return groups_in(answered(reply))

    def container_group(self, key: str, name: GroupName) -> dict[str, Any]:
        return one_group(accepted(self._send("GET", key, name.path), 200))

    def start(self, key: str, name: GroupName) -> None:
        accepted(self._send("POST", key, f"{name.path}/start"), 202)

    def stop(self, key: str, name: GroupName) -> None:
        accepted(self._send("POST", key, f"{name.path}/stop"), 202)

    def set_replicas(self, key: str, name: GroupName, replicas: int) -> None:
        change = json.dumps({"replicas": replicas}).encode()
        one_group(accepted(self._send("PATCH", key, name.path, change), 200))

    def instances(self, key: str, name: GroupName) -> list[dict[str, Any]]:
        """The group's instances; each has an id of its own beside its machine's."""
        document = accepted(self._send("GET", key, f"{name.path}/instances"), 200).json
        found = document.get("instances") if isinstance(document, dict) else None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise NoAnswer("Salad answered something else than a list of instances")
        return found

    def reallocate(self, key: str, name: GroupName, instance_id: str) -> None:
        """Move an instance to another machine."""
        accepted(self._send("POST", key, f"{name.path}/instances/{quote(instance_id, safe='')}/reallocate"), 202)

    def _send(self, method: str, key: str, path: str, change: bytes | None = None) -> Reply:
        headers = {"Salad-Api-Key": key, "Accept": "application/json"}
        if change is not None:
            headers |= {"Content-Type": MERGE_PATCH, "Accept": f"{MERGE_PATCH}, application/json"}
        return send(method, self.base_url + path, headers, LIMIT, change)


def accepted(reply: Reply, status: int) -> Reply:
    """An answer of the status that means yes. Raises SaladRefused, or NoAnswer where asking again may help."""
    if reply.status == status:
        return reply
    if 400 <= reply.status < 500 and reply.status not in {408, 429}:
        raise SaladRefused(reply.status)
    raise NoAnswer(f"Salad answered {reply.status}", reply.retry_after)


def one_group(reply: Reply) -> dict[str, Any]:
    if not isinstance(reply.json, dict) or not isinstance(reply.json.get("current_state"), dict):
        raise NoAnswer("Salad answered something else than a container group")
    return reply.json


def answered(reply: Reply) -> Any:
    """The JSON of a good answer; Salad's errors may be HTML, so only their status counts."""
    if reply.status in {401, 403, 404}:
        raise SaladRefused(reply.status)
    if reply.status != 200:
        raise NoAnswer(f"Salad answered {reply.status}", reply.retry_after)
    return reply.json


def groups_in(document: Any) -> list[dict[str, Any]]:
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise NoAnswer("Salad answered something else than a list of container groups")
    return items
