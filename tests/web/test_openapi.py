"""The document at /openapi.json says what the server has."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from flask import Flask

from kelpie_api.web.sessions import is_page
from tests.helpers import Client

METHODS = {"get", "put", "post", "delete", "patch"}
UNDOCUMENTED = {
    "/openapi.json",
    "/openapi.yaml",
    "/docs",
    "/redocs",
    "/docs/<name>",
}  # the document itself, and the page that shows it


@pytest.fixture
def document(app: Flask) -> dict[str, Any]:
    answer = app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json or {})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in item.keys() & METHODS:
            yield method, path, item[method]


def parameters(document: dict[str, Any], path: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [*document["paths"][path].get("parameters", []), *operation.get("parameters", [])]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_openapi_3_with_a_title_and_a_version(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.\d\.\d", document["openapi"])
    assert document["info"]["title"] and document["info"]["version"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert found
    for reference in found:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]


def test_every_route_is_in_it_and_nothing_else(app: Flask, document: dict[str, Any]) -> None:
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule not in UNDOCUMENTED and not is_page(rule.endpoint)
    }
    assert {(method, path) for method, path, _ in operations(document)} == served


def test_every_placeholder_of_a_path_is_a_required_parameter(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        declared = [parameter for parameter in parameters(document, path, operation) if parameter["in"] == "path"]
        assert {parameter["name"] for parameter in declared} == set(re.findall(r"{(\w+)}", path)), (method, path)
        assert all(parameter["required"] for parameter in declared)


def test_parameters_are_named_once_and_have_a_schema(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        found = [(parameter["in"], parameter["name"]) for parameter in parameters(document, path, operation)]
        assert len(set(found)) == len(found), (method, path)
        assert all(parameter["schema"] for parameter in parameters(document, path, operation))


def test_every_operation_says_what_it_does_and_what_it_answers(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert operation.get("summary"), (method, path)
        assert operation["responses"], (method, path)
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[2-5]\d\d|default", status)
            assert "$ref" in response or response["description"], (method, path, status)


def test_it_knows_the_three_kinds_of_caller(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"].values()
    assert {(scheme["type"], scheme.get("name", scheme.get("scheme"))) for scheme in schemes} == {
        ("apiKey", "X-Kelpie-Key"),
        ("apiKey", "Salad-Api-Key"),
        ("http", "bearer"),
    }


def test_every_route_asks_for_one_of_them_but_the_public_ones(app: Flask, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        answer = app.test_client().open(path.replace("{", "").replace("}", ""), method=method.upper())
        assert bool(operation.get("security")) is (answer.status_code == 401), (method, path)
        if "security" in operation:
            assert {name for way in operation["security"] for name in way} == set(
                document["components"]["securitySchemes"]
            )


def test_every_route_that_asks_for_a_caller_says_how_it_refuses_one(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if "security" in operation:
            assert operation["responses"].keys() >= {"400", "401", "403", "503"}, (method, path)
            headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
            assert headers >= {"Salad-Organization", "Salad-Project"}


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for *_, operation in operations(document) if "operationId" in operation]
    assert len(set(ids)) == len(ids)


def test_the_document_as_yaml_is_the_same(app: Flask, document: dict[str, Any]) -> None:
    answer = app.test_client().get("/openapi.yaml")
    assert (answer.status_code, answer.mimetype) == (200, "application/yaml")
    assert yaml.safe_load(answer.text) == document


def test_every_property_and_every_parameter_is_described(document: dict[str, Any]) -> None:
    undescribed = [
        (name, field)
        for name, schema in document["components"]["schemas"].items()
        if name not in {"Error", "PaginationMetadata"}  # the library's own, which no operation refers to
        for field, shape in schema["properties"].items()
        if not shape.get("description")
    ]
    assert undescribed == []
    for method, path, operation in operations(document):
        for parameter in parameters(document, path, operation):
            assert parameter.get("description"), (method, path, parameter["name"])


def test_the_ids_of_paths_have_their_format(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for parameter in parameters(document, path, operation):
            if parameter["name"] in {"job_id", "user_id", "webhook_id"}:
                assert parameter["schema"]["format"] == "uuid", (method, path)


def test_no_link_has_a_body(document: dict[str, Any]) -> None:
    """The most used generator refuses a document with one."""
    links = [link for *_, operation in operations(document) for link in links_of(operation)]
    assert links
    assert all("requestBody" not in link for link in links)


def links_of(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for response in operation["responses"].values():
        yield from response.get("links", {}).values()


def test_sync_has_a_type_in_requests_and_answers(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("JobDefinition", "Job"):
        [reference] = references(schemas[name]["properties"]["sync"])
        parts = schemas[reference.rpartition("/")[2]]["properties"]
        assert parts.keys() == {"before", "during", "after"}
        for part in parts.values():
            [block] = references(part)
            assert schemas[block.rpartition("/")[2]]["properties"].keys() >= {"bucket", "prefix", "local_path"}


def test_every_body_has_an_example_that_is_accepted(api: Client, document: dict[str, Any]) -> None:
    job_id = str(uuid.uuid4())
    # First: the examples of the other routes of a submission are the same job, and share its prefix.
    assert "warnings" not in api.submit(**body_of(document, "/jobs"))
    for method, path, operation in operations(document):
        if "application/json" not in operation.get("requestBody", {"content": {}})["content"]:
            continue
        example = operation["requestBody"]["content"]["application/json"]["example"]
        filled = re.sub(r"{\w+}", job_id, path.replace("{secret_name}", "HF_TOKEN"))
        answer = api.call(method.upper(), filled, example)
        # Past the check of the body: the job is unknown, or only the administrator may.
        assert answer.status_code in {200, 201, 202, 403, 404, 503}, (method, path, answer.text)


def test_the_old_path_of_a_submission_is_documented_and_answered_as_the_new_one(
    app: Flask, document: dict[str, Any]
) -> None:
    """Limits are tried at one of them only: tests/openapi/schemathesis.toml."""
    old, new = (document["paths"][path]["post"] for path in ("/job", "/jobs"))
    assert {part: value for part, value in old.items() if value != new.get(part)}.keys() == {"operationId"}
    assert new.keys() == old.keys()
    assert app.view_functions["jobs.submit_job_by_old_path"] is app.view_functions["jobs.submit_job"]


def body_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    return dict(document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"])
