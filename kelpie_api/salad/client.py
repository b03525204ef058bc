"""A client of Salad's public API, by the specification that Salad publishes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from kelpie_api.errors import NoAnswer
from kelpie_api.net.http import Reply, send

LIMIT = 5.0  # seconds for one request
MERGE_PATCH = "application/merge-patch+json"
LONGEST_REASON = 200  # characters
NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")  # of an organization, a project, a container group


class SaladRefused(Exception):
    """Salad refused: the key is wrong (401), has no access to this project (403), or there is none (404).

    `said` is the reason that Salad gave, or empty.
    """

    def __init__(self, status: int, said: str = "") -> None:
        super().__init__(f"Salad answered {status}" + (f" ({said})" if said else ""))
        self.status = status
        self.said = said


def what_to_do(refusal: SaladRefused) -> str:
    """What the operator should do about a refusal of the coordinator's own key, in a sentence."""
    match refusal.status:
        case 401:
            sentence = "Salad does not know SALAD_API_KEY (401); renew it"
        case 403:
            sentence = "Salad lets SALAD_API_KEY not do this (403); add its user to the organization at Salad"
        case 404:
            sentence = "Salad knows no such project, group or instance (404)"
        case _:
            return str(refusal)
    return sentence + (f" (Salad: {refusal.said})" if refusal.said else "")


def is_name(text: str) -> bool:
    """Whether this can be a name at Salad. What cannot must not become part of a path."""
    return NAME.fullmatch(text) is not None


class GroupName(NamedTuple):
    """The names that address a container group at Salad."""

    organization: str
    project: str
    group: str

    @property
    def path(self) -> str:
        organization, project, group = (quote(part, safe="") for part in self)
        return f"/organizations/{organization}/projects/{project}/containers/{group}"


class Salad:
    """Each call takes a key: the coordinator's own, or a caller's key that is to be proven."""

    def __init__(self, base_url: str, limit: float = LIMIT) -> None:
        self.base_url = base_url.rstrip("/")
        self.limit = limit

    def container_groups(self, key: str, organization: str, project: str) -> list[dict[str, Any]]:
        """The project's container groups. Raises SaladRefused, NoAnswer."""
        path = f"/organizations/{quote(organization, safe='')}/projects/{quote(project, safe='')}/containers"
        return groups_in(answered(self._send("GET", key, path)))

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
        """The group's instances; each has an id of its own and its machine's. Raises SaladRefused, NoAnswer."""
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
        return without(key, send(method, self.base_url + path, headers, self.limit, change))


def without(key: str, reply: Reply) -> Reply:
    """The reply with the key masked: a refusal may quote the request, and its reason is shown and logged."""
    if reply.status < 400 or not isinstance(reply.json, dict):
        return reply
    clean = {
        name: value.replace(key, "***") if isinstance(value, str) else value for name, value in reply.json.items()
    }
    return replace(reply, json=clean)


def accepted(reply: Reply, status: int) -> Reply:
    """The reply, if it has the expected status. Raises SaladRefused; NoAnswer where a retry may help."""
    if reply.status == status:
        return reply
    if 400 <= reply.status < 500 and reply.status not in {408, 429}:
        raise refusal(reply)
    raise NoAnswer(f"Salad answered {reply.status}", reply.retry_after)


def refusal(reply: Reply) -> SaladRefused:
    """The refusal in a reply. Raises NoAnswer for a 404 that is not Salad's own.

    A misconfigured proxy in between answers 404 to everything, and then groups must not be taken for deleted.
    """
    if reply.status == 404 and not is_problem(reply.json, 404):
        raise NoAnswer("something else than Salad answered 404")
    return SaladRefused(reply.status, reason_given(reply.json))


def is_problem(document: Any, status: int) -> bool:
    """Whether this is an error as Salad's specification describes them."""
    if not isinstance(document, dict) or document.get("status", status) != status:
        return False
    return isinstance(document.get("title"), str) or isinstance(document.get("type"), str)


def reason_given(document: Any) -> str:
    """Title and detail of an error, on one line of at most LONGEST_REASON characters."""
    if not isinstance(document, dict):
        return ""
    parts = [document[name] for name in ("title", "detail") if isinstance(document.get(name), str)]
    line = " ".join(": ".join(parts)[: 2 * LONGEST_REASON].split())
    return "".join(filter(str.isprintable, line))[:LONGEST_REASON]


def one_group(reply: Reply) -> dict[str, Any]:
    if not isinstance(reply.json, dict) or not isinstance(reply.json.get("current_state"), dict):
        raise NoAnswer("Salad answered something else than a container group")
    return reply.json


def answered(reply: Reply) -> Any:
    """The JSON of a 200. Raises SaladRefused for 401, 403 and 404, else NoAnswer; Salad's errors may be HTML.

    Callers' keys are decided by it too, so only these three statuses count as a refusal.
    """
    if reply.status in {401, 403, 404}:
        raise refusal(reply)
    if reply.status != 200:
        raise NoAnswer(f"Salad answered {reply.status}", reply.retry_after)
    return reply.json


def id_of(group: dict[str, Any]) -> str:
    """The group's id in lower case: Salad's ids mean the same in capitals."""
    return str(group.get("id")).lower()


def group_with(groups: Iterable[dict[str, Any]], group_id: str) -> dict[str, Any] | None:
    """The container group with this id, or None."""
    return next((group for group in groups if id_of(group) == group_id.lower()), None)


def name_of_group(groups: Iterable[dict[str, Any]], group_id: UUID) -> str | None:
    """The name of the container group with this id; None if there is none, or its name is not a legal one."""
    group = group_with(groups, str(group_id))
    name = str(group.get("name")) if group else ""
    return name if is_name(name) else None


def groups_in(document: Any) -> list[dict[str, Any]]:
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise NoAnswer("Salad answered something else than a list of container groups")
    return items
