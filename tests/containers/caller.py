"""A tenant that calls through the proxy."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import requests

from tests.containers.compose import Compose


class Caller:
    """A context manager. One connection, kept as long as the proxy keeps it."""

    def __init__(self, stack: Compose, organization: str, key: str | None = None) -> None:
        self.url = stack.url
        self.key = key or stack.new_key(organization)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-Kelpie-Key"] = self.key

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def call(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self.session.request(method, self.url + path, json=body, timeout=60)

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a success; anything else fails the test."""
        answer = self.call(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()
