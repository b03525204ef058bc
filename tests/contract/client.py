"""One caller of one server, over real HTTP."""

from __future__ import annotations

import http.client
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

Json = dict[str, Any]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Whole bodies only: a part of one is compared with `==` where the contract gives the whole.
ERROR_KEYS = {"error", "message", "errors", "index"}


def unique(name: str) -> str:
    """A name nobody else has: what one test makes, no other test sees."""
    return f"{name}-{uuid.uuid4().hex[:10]}"


def new_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # the server is on this machine: no proxy stands between
    session.mount("http://", HTTPAdapter(pool_connections=4, pool_maxsize=64))
    return session


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    """Calls with the same credentials; `group` is the container group of this caller's jobs and workers."""

    url: str
    session: requests.Session
    headers: Mapping[str, str] = field(default_factory=dict)
    group: str = field(default_factory=lambda: unique("group"))

    def with_headers(self, headers: Mapping[str, str]) -> Api:
        """The same caller with these headers instead."""
        return Api(self.url, self.session, headers, self.group)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """`body` is sent as JSON, `raw` as it is; keywords are the query."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        answer = self.session.request(
            method,
            self.url + path,
            data=data,
            headers={"Content-Type": "application/json", **self.headers, **(headers or {})},
            params={name: value for name, value in query.items() if value is not None},
            timeout=60,
            allow_redirects=False,
        )
        return Answer(answer.status_code, answer.headers, answer.content)

    def get(self, path: str, **query: Any) -> Answer:
        return self.call("GET", path, **query)

    def post(self, path: str, body: Any = None, **query: Any) -> Answer:
        return self.call("POST", path, body, **query)

    def delete(self, path: str, **query: Any) -> Answer:
        return self.call("DELETE", path, **query)

    def definition(self, **fields: Any) -> Json:
        """A small job of this caller's group."""
        return {"command": "true", "container_group_id": self.group, **fields}

    def submit(self, **fields: Any) -> Json:
        return expect(202, self.post("/jobs", self.definition(**fields))).json

    def submit_many(self, number: int, **fields: Any) -> list[Json]:
        return expect(202, self.post("/jobs/batch", [self.definition(**fields)] * number)).json

    def job(self, job: Json) -> Json:
        return expect(200, self.get(f"/jobs/{job['id']}")).json

    def claim(self, machine: str, group: str | None = None, **query: Any) -> list[Json]:
        place = {"machine_id": machine, "container_group_id": group or self.group}
        return expect(200, self.get("/work", **place, **query)).json

    def claimed(self, machine: str, **fields: Any) -> Json:
        """A new job, running on this machine."""
        job = self.submit(**fields)
        [claimed] = self.claim(machine, fields.get("container_group_id"))
        assert claimed["id"] == job["id"]
        return claimed

    def report(self, kind: str, job: Json, machine: str, **fields: Any) -> Answer:
        place = {"machine_id": machine, "container_group_id": self.group}
        return self.post(f"/jobs/{job['id']}/{kind}", {**place, **fields})

    def listed(self, **query: Any) -> list[Json]:
        answer = expect(200, self.get("/jobs", **query)).json
        assert answer["_count"] == len(answer["jobs"])
        return answer["jobs"]


def expect(status: int, answer: Answer) -> Answer:
    assert answer.status == status, (answer.status, answer.body[:2000])
    return answer


def expect_error(status: int, answer: Answer) -> Json:
    """The one shape of errors: JSON with a short title and a sentence."""
    expect(status, answer)
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    error = answer.json
    assert {"error", "message"} <= set(error) <= ERROR_KEYS, error
    assert error["error"].strip()
    assert error["message"].strip()
    assert "Traceback" not in answer.body.decode()
    return error


def expect_invalid(field_name: str, answer: Answer) -> Json:
    """A validation error that names the field, by its path."""
    error = expect_error(400, answer)
    assert any(field_name in path for path in error["errors"]), error
    for sentences in error["errors"].values():
        assert sentences
        assert all(isinstance(sentence, str) and sentence.strip() for sentence in sentences)
    return error


def raw_request(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    chunked: bool = False,
) -> Answer:
    """Exactly these headers and this path, on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        content = (body[start : start + 7] for start in range(0, len(body), 7)) if chunked and body else body
        connection.request(method, path, content, dict(headers or {}), encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()
