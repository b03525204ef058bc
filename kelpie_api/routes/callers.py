"""Who may call, as the OpenAPI document says it of every route at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from apispec import APISpec, BasePlugin
from werkzeug.routing import Rule

from kelpie_api.schemas import Failure

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
}


class CallersInSpec(BasePlugin):
    """Adds to each route that asks for a caller how to be one, and how one is refused."""

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
