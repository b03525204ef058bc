"""The OpenAPI document: what all operations have in common, and the links between them."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from typing import Any

from apispec import APISpec, BasePlugin
from flask import Flask
from flask_smorest import Api
from werkzeug.routing import Rule

from kelpie_api.schemas.fields import Failure, Instant
from kelpie_api.schemas.secrets import NAME_OF_A_SECRET
from kelpie_api.web.access import DATABASE_FREE, PUBLIC
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import FreeText
from kelpie_api.web.json import json_by_key
from kelpie_version import VERSION

GROUP = "97f504e8-6de6-4322-b5d5-1777a59a7ad3"
JOB = {
    "command": "python",
    "arguments": ["train.py", "--steps", "1000"],
    "environment": {"LEARNING_RATE": "0.001"},
    "container_group_id": GROUP,
    "sync": {
        "before": [
            {"bucket": "my-bucket", "prefix": "inputs/", "local_path": "inputs", "direction": "download"},
            {"bucket": "my-bucket", "prefix": "job-1/state/", "local_path": "state", "direction": "download"},
        ],
        "during": [
            {"bucket": "my-bucket", "prefix": "job-1/state/", "local_path": "state", "direction": "upload"}
        ],
        "after": [{"bucket": "my-bucket", "prefix": "job-1/out/", "local_path": "out", "direction": "upload"}],
    },
    "max_failures": 3,
    "heartbeat_interval": 30,
}
REPORT = {"machine_id": "machine-1", "container_group_id": GROUP, "attempt": 1}
FAILURE = {"exit_code": 1, "reason": "exit_code", "detail": "The command exited with 1."}
FILE = {"bucket": "my-bucket", "key": "job-1/state/weights", "size": 4096, "etag": "9b2cf535f27731c9"}
# A body for each operation that takes one: what Swagger UI proposes, and readers copy.
EXAMPLES: dict[str, Any] = {
    "submit_job": JOB,
    "submit_job_by_old_path": JOB,
    "submit_batch": [JOB],
    "heartbeat": REPORT | {"checkpoint_lag": 0},
    "completed": REPORT | {"exit_code": 0},
    "failed": REPORT | FAILURE,
    "released": REPORT | {"reason": "shutdown"},
    "keep_checkpoint": REPORT | {"generation": 1, "files": [FILE]},
    "resumed": REPORT | {"checkpoint": "clean"},
    "create_rule": {
        "container_group_id": GROUP,
        "min_replicas": 0,
        "max_replicas": 10,
        "idle_threshold_seconds": 300,
    },
    "change_rule": {"max_replicas": 20},
    "cancel_jobs": {"label": ["experiment:7"]},
    "hold_jobs": {"label": ["experiment:7"]},
    "resume_jobs": {"label": ["experiment:7"]},
    "rerun_jobs": {"label": ["experiment:7"]},
    "create_sweep": {"name": "learning-rates", "max_parallel": 20},
    "change_sweep": {"max_parallel": 40},
    "interrupt_job": {"ban": False},
    "rerun_job": {"fresh": False},
    "change_job": {"priority": 5, "max_attempts": 20},
    "change_group": {"paused": True, "price_per_hour": 0.25},
    "create_key": {"name": "ann", "role": "operator"},
    "put_secret": {"value": "hf_..."},
    "create_user": {"username": "acme"},
    "create_token": {"org_name": "acme", "project_name": "default"},
}
# What stands in a path, and of which form it must be.
UUID_IN_A_PATH = {"format": "uuid"}
IN_A_PATH: dict[str, tuple[str, dict[str, str]]] = {
    "job_id": ("The id of a job.", UUID_IN_A_PATH),
    "user_id": ("The id of a user.", UUID_IN_A_PATH),
    "machine_id": ("The id of a machine.", {}),
    "secret_name": ("The name of a secret, which is that of the variable.", {"pattern": f"^{NAME_OF_A_SECRET}$"}),
    "sweep_id": ("The id of a sweep.", UUID_IN_A_PATH),
    "key_id": ("The id of a key, which is not the key.", UUID_IN_A_PATH),
    "webhook_id": ("The id of a webhook.", UUID_IN_A_PATH),
    "container_group_id": ("The id of a container group.", {}),
}

# Errors that are decided before a route is called.
ANY_TIME = {
    "503": "The database, or Salad where it must confirm the caller, gives no answer; "
    "`Retry-After` says when to ask again."
}
BODY_TAKEN = {
    "400": "The body is not what this route takes; `errors` names the fields.",
    "413": "The body is larger than 16 MiB.",
}

# Answers with an id that other operations need: operation -> (status, where the id is in the answer).
SOURCES = {
    "submit_job": ("202", "$response.body#/id"),
    "submit_job_by_old_path": ("202", "$response.body#/id"),
    "submit_batch": ("202", "$response.body#/0/id"),
    "get_work": ("200", "$response.body#/0/id"),
    "create_key": ("201", "$response.body#/id"),
    "create_sweep": ("201", "$response.body#/id"),
    "create_user": ("201", "$response.body#/id"),
    "create_rule": ("201", "$response.body#/container_group_id"),
}
# The container group of a submitted job, which a claim for it must name.
QUEUE = {
    "submit_job": "$request.body#/container_group_id",
    "submit_job_by_old_path": "$request.body#/container_group_id",
    "submit_batch": "$request.body#/0/container_group_id",
}
PARAMETER = {
    "create_key": "key_id",
    "create_sweep": "sweep_id",
    "create_user": "user_id",
    "create_rule": "container_group_id",
}  # of the operations that follow; job_id after all others


class Document(BasePlugin):
    """Adds to each operation its id, the errors that all have in common, and links to operations that can follow.

    `free` are the endpoints that do not need the database.
    """

    def __init__(self, free: set[str]) -> None:
        self.free = free
        self.sources: list[tuple[str, dict[str, Any]]] = []  # operations, and the links of their answers
        self.followers: list[Rule] = []

    def path_helper(
        self,
        path: str | None = None,
        operations: dict[Any, Any] | None = None,
        parameters: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        for parameter in parameters or ():
            parameter["description"], form = IN_A_PATH[parameter["name"]]
            parameter["schema"] |= form

    def operation_helper(
        self, path: str | None = None, operations: dict[Any, Any] | None = None, **kwargs: Any
    ) -> None:
        rule: Rule = kwargs["rule"]
        for operation in (operations or {}).values():
            operation["operationId"] = name_of(rule)
            if "requestBody" in operation:
                for kind, content in operation["requestBody"]["content"].items():
                    if kind == "application/json":
                        content["example"] = EXAMPLES[name_of(rule)]
            responses = operation.setdefault("responses", {})
            for status, description in self.refusals(rule.endpoint, "requestBody" in operation):
                if not {status, int(status)} & responses.keys():
                    responses[status] = failure(description)
            self.follow(rule)
            self.lead_on(name_of(rule), responses)

    def refusals(self, endpoint: str, takes_body: bool) -> Iterator[tuple[str, str]]:
        if endpoint not in self.free:
            yield from ANY_TIME.items()
        if takes_body:
            yield from BODY_TAKEN.items()

    def follow(self, rule: Rule) -> None:
        """Link the sources known so far to this operation."""
        self.followers.append(rule)
        for source, links in self.sources:
            links.update(link(source, rule))

    def lead_on(self, operation_id: str, responses: dict[Any, Any]) -> None:
        """Link this operation, if it is a source, to all operations known so far."""
        if operation_id not in SOURCES:
            return
        status, _ = SOURCES[operation_id]
        links = (responses.get(status) or responses[int(status)]).setdefault("links", {})
        self.sources.append((operation_id, links))
        for rule in self.followers:
            links.update(link(operation_id, rule))


def link(source: str, rule: Rule) -> dict[str, Any]:
    """A link from the answer of one operation to another one; empty if that one does not need the id."""
    if source in QUEUE and name_of(rule) == "get_work":
        return {"get_work": {"operationId": "get_work", "parameters": {"container_group_id": QUEUE[source]}}}
    parameter = PARAMETER.get(source, "job_id")
    if parameter not in rule.arguments:
        return {}
    follower: dict[str, Any] = {"operationId": name_of(rule), "parameters": {parameter: SOURCES[source][1]}}
    return {name_of(rule): follower}


def name_of(rule: Rule) -> str:
    return str(rule.endpoint).rpartition(".")[2]


def failure(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
    }


INTRODUCTION = """Gets long jobs to their end on machines that may vanish.

A job is a command with its arguments, environment and places in S3. `POST /jobs` submits it; a machine of its
container group claims it and keeps it by heartbeats; when those end, another one goes on from the last checkpoint.
`GET /jobs/{job_id}` says how it is, `GET /jobs/{job_id}/why` why it does not run.

Each request carries a credential: a Kelpie key in `X-Kelpie-Key`, which an administrator or `POST /keys` makes
(*Authorize* below sends it with what you try here). A refusal is JSON with an `error` and a `message` that says
what to do. People look at [the pages](/ui); scripts may rather use the command line and Python package `kelpie`.
"""
SCHEMES = {
    "X-Kelpie-Key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Kelpie-Key",
        "description": "A key that the administrator made for a user.",
    },
    "Salad-Api-Key": {
        "type": "apiKey",
        "in": "header",
        "name": "Salad-Api-Key",
        "description": "A key of Salad's API; Salad-Organization and Salad-Project go with it.",
    },
    "JWT": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The token of a machine from Salad's metadata service; Salad-Project goes with it.",
    },
}
HEADERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},  # read only where its credential is the one that counts
        "description": f"Needed beside {needed_by}.",
    }
    for name, needed_by in (
        ("Salad-Organization", "Salad-Api-Key"),
        ("Salad-Project", "Salad-Api-Key and a token"),
    )
]
REFUSALS = {
    "400": ("BadRequest", "The request is not right, or a header that the credential needs is missing."),
    "401": ("Unauthorized", "There is no credential in the request."),
    "403": ("Forbidden", "The credential is wrong, or may not do this."),
    "429": (
        "TooManyRequests",
        "Many unknown keys came in a short time; `Retry-After` says when to send the request again.",
    ),
}


class DocumentedApi(Api):
    # A default response would document every status there is, whatever it means.
    DEFAULT_ERROR_RESPONSE_NAME = None


class ApiDocument:
    """The text of /openapi.json, made by its first request: making it takes longer than the rest of a start."""

    def __init__(self, blueprints: Collection[Blueprint]) -> None:
        self._blueprints = blueprints
        self._making = threading.Lock()
        self._text: str | None = None

    def text(self) -> str:
        with self._making:
            if self._text is None:
                self._text = self._made()
            return self._text

    def _made(self) -> str:
        """Make the document by registering all routes with an application that serves no requests."""
        app = Flask(__name__, static_folder=None)
        app.url_map.converters["text"] = FreeText
        app.config |= {"API_TITLE": "Kelpie", "API_VERSION": VERSION, "OPENAPI_VERSION": "3.0.3"}
        app.config["API_SPEC_OPTIONS"] = {"info": {"description": INTRODUCTION}}
        plugins = [CallersInSpec(PUBLIC), Document(DATABASE_FREE)]
        api = DocumentedApi(app, spec_kwargs={"extra_plugins": plugins})
        api.register_field(Instant, "string", "date-time")
        for blueprint in self._blueprints:
            api.register_blueprint(blueprint)
        document = with_nullable_references(api.spec.to_dict())
        return json_by_key(document, lambda part: json.dumps(part, indent=2).encode()).decode()


def with_nullable_references(value: Any) -> Any:
    """The document with `nullable` beside references that may be null, instead of a choice between two objects.

    Generators make one type of the first and an untyped union of the second.
    """
    if isinstance(value, list):
        return [with_nullable_references(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get("anyOf"):
        case [{"$ref": reference}, {"type": "object", "nullable": True}]:
            rest = {name: inner for name, inner in value.items() if name != "anyOf"}
            return {**rest, "allOf": [{"$ref": reference}], "nullable": True}
    return {name: with_nullable_references(inner) for name, inner in value.items()}


class CallersInSpec(BasePlugin):
    """Adds the security schemes, and the errors of authentication, to each route that needs a caller."""

    def __init__(self, public: Collection[str]) -> None:
        self.public = public

    def init_spec(self, spec: APISpec) -> None:
        for name, scheme in SCHEMES.items():
            spec.components.security_scheme(name, scheme)
        for name, description in REFUSALS.values():
            failure = {"content": {"application/json": {"schema": Failure}}}
            spec.components.response(name, {"description": description} | failure)

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        rule: Rule = kwargs["rule"]
        for operation in (operations or {}).values() if rule.endpoint not in self.public else ():
            operation["security"] = [{name: []} for name in SCHEMES]
            operation["parameters"] = [*operation.get("parameters", []), *HEADERS]
            documented = {str(status) for status in operation["responses"]}
            for status, (name, _) in REFUSALS.items():
                if status not in documented:
                    operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
