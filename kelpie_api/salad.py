"""Salad's public API, held to the specification that Salad publishes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from kelpie_api.asking import Reply, get
from kelpie_api.errors import NoAnswer

LIMIT = 5.0  # seconds for one request
NAME = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")  # of an organization, a project, a container group


class SaladRefused(Exception):
    """Salad said no: the key is wrong (401), has no right to this project (403), or there is none (404)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Salad answered {status}")
        self.status = status


def is_name(text: str) -> bool:
    """Can this be a name at Salad? What cannot must not get into a path."""
    return NAME.fullmatch(text) is not None


class Salad:
    """Calls with the key that each call brings, for the callers' keys are asked about as well as our own."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")

    def container_groups(self, key: str, organization: str, project: str) -> list[dict[str, Any]]:
        """The project's container groups. Raises SaladRefused, NoAnswer."""
        path = f"/organizations/{quote(organization, safe='')}/projects/{quote(project, safe='')}/containers"
        reply = get(self.base_url + path, {"Salad-Api-Key": key, "Accept": "application/json"}, LIMIT)
        return groups_in(answered(reply))


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
