"""Section 1: the rules for every route."""

from __future__ import annotations

import http.client
import json
import re
import socket
import uuid
from typing import Any
from urllib.parse import urlsplit

import pytest
from openapi_spec_validator import validate

from tests.contract.client import ERROR_KEYS, TIME, Answer, Api, Json, expect, expect_error, raw_request
from tests.contract.stack import Stack, User

MEBI = 1024 * 1024

# Every route of sections 1 to 5, in the contract's order; {id} is a job's or a user's.
ROUTES = [
    ("POST", "/jobs"),
    ("POST", "/job"),
    ("POST", "/jobs/batch"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{id}"),
    ("DELETE", "/jobs/{id}"),
    ("DELETE", "/jobs/container-groups/{group}"),
    ("DELETE", "/jobs"),
    ("GET", "/work"),
    ("POST", "/jobs/{id}/heartbeat"),
    ("POST", "/jobs/{id}/completed"),
    ("POST", "/jobs/{id}/failed"),
    ("POST", "/jobs/{id}/released"),
    ("GET", "/jobs/{id}/attempts"),
    ("GET", "/jobs/{id}/events"),
    ("GET", "/jobs/{id}/webhooks"),
    ("POST", "/jobs/{id}/webhooks/{webhook}/redeliver"),
    ("GET", "/users/me/signing-secret"),
    ("POST", "/users/me/signing-secret"),
    ("GET", "/users/me"),
    ("POST", "/users"),
    ("POST", "/users/{id}/token"),
    ("DELETE", "/users"),
    ("DELETE", "/users/{id}"),
]
# They remove everything; with a slash at the end they lack the id of one thing.
ALL_OF_THEM = [("DELETE", "/jobs"), ("DELETE", "/users")]
OPEN_ROUTES = ["/openapi.json", "/docs", "/healthz", "/readyz", "/metrics"]
REPORTS = ("heartbeat", "completed", "failed", "released")
JOB_ROUTES = [route for route in ROUTES if route[1].startswith("/jobs/{id}")]


def filled(path: str, job_id: str | None = None) -> str:
    unknown = str(uuid.uuid4())
    return path.format(id=job_id or unknown, group="some-group", webhook=unknown)


def fitting_body(api: Api, path: str) -> Any:
    """A body that the route accepts."""
    path = path.rstrip("/")
    if path.endswith("/batch"):
        return [api.definition()]
    if path.endswith(REPORTS):
        return {"machine_id": "m", "container_group_id": api.group}
    if path.endswith("/token"):
        return {"org_name": "acme", "project_name": "default"}
    if path == "/users":
        return {"username": f"user-{uuid.uuid4().hex}"}
    return api.definition()


def call(api: Api, method: str, path: str, job_id: str | None = None) -> Answer:
    query = {"machine_id": "m", "container_group_id": api.group} if path == "/work" else {}
    body = fitting_body(api, path) if method == "POST" else None
    return api.call(method, filled(path, job_id), body, **query)


# --- format


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/octet-stream",
        "image/png",
        "nonsense",
        "",
        None,
    ],
)
def test_a_body_is_json_whatever_its_content_type_says(api: Api, content_type: str | None) -> None:
    body = json.dumps(api.definition()).encode()
    headers = dict(api.headers) | ({} if content_type is None else {"Content-Type": content_type})
    job = expect(202, raw_request(api.url, "POST", "/jobs", body, headers)).json
    report = json.dumps({"machine_id": "m", "container_group_id": api.group}).encode()
    expect(200, raw_request(api.url, "POST", f"/jobs/{job['id']}/completed", report, headers))


def test_a_body_may_come_in_chunks(api: Api) -> None:
    body = json.dumps(api.definition(arguments=["x" * 100])).encode()
    headers = {**api.headers, "Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    job = expect(202, raw_request(api.url, "POST", "/jobs", body, headers, chunked=True)).json
    assert job["arguments"] == ["x" * 100]


def test_every_answer_with_a_body_is_json(api: Api) -> None:
    for method, path in ROUTES:
        answer = call(api, method, path)
        assert not answer.body or answer.headers["Content-Type"].split(";")[0] == "application/json", path
        assert not answer.body or answer.json is not ...


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_an_unknown_query_parameter_is_ignored(api: Api, method: str, path: str) -> None:
    job = api.submit()
    query = {"machine_id": "m", "container_group_id": api.group} if path == "/work" else {}
    body = fitting_body(api, path) if method == "POST" else None
    plain = call(api, method, path, api.submit()["id"])
    odd = api.call(method, filled(path, job["id"]), body, **query, colour="red")
    assert odd.status == plain.status


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_trailing_slash_is_accepted(api: Api, method: str, path: str) -> None:
    plain = call(api, method, path, api.submit()["id"])
    slashed = call(api, method, path + "/", api.submit()["id"])
    if path == "/work":
        assert slashed.status == 400  # without its query
    elif (method, path) in ALL_OF_THEM:
        expect_error(400, slashed)  # an id is missing behind the slash
    else:
        assert slashed.status == plain.status
    assert slashed.json["error"] != "Route Not Found" if slashed.status == 404 else True


@pytest.mark.parametrize(
    "path",
    ["/jobs/", "/users/", "/scaling-rules/", "/jobs/container-groups/", "/users/?all=true"],
)
def test_a_removal_whose_id_is_empty_removes_nothing(other_stack: Stack, path: str) -> None:
    """As `curl -X DELETE "$API/jobs/$ID"` sends it while the variable is empty."""
    user = other_stack.new_user()
    api = user.api()
    job = api.submit()
    for caller in (other_stack.admin, api):
        sentence = expect_error(400, caller.delete(path))["message"]
        assert "empty" in sentence
    assert api.listed() == [job]
    assert expect(200, api.get("/users/me")).json["id"] == user.id


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/jobs//attempts"),
        ("GET", "/jobs//events"),
        ("GET", "/jobs//webhooks"),
        ("POST", "/jobs//heartbeat"),
        ("POST", "/jobs//completed"),
        ("POST", "/jobs/{id}/webhooks//redeliver"),
        ("POST", "/users//token"),
        ("GET", "/scaling-rules//decisions"),
        ("PATCH", "/scaling-rules/"),
        ("GET", "/container-groups//metrics"),
    ],
)
def test_what_was_left_out_of_a_path_is_named(api: Api, method: str, path: str) -> None:
    assert "empty" in expect_error(400, api.call(method, filled(path)))["message"]


@pytest.mark.parametrize("path", ["/healthz/", "/readyz/", "/work/?machine_id=m&container_group_id=g"])
def test_a_trailing_slash_is_no_redirect(api: Api, path: str) -> None:
    expect(200, api.get(path))


def test_a_connection_is_used_again(api: Api) -> None:
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    connection.connect()
    local = connection.sock.getsockname()
    for path in ("/users/me", "/jobs", "/nowhere", f"/jobs/{uuid.uuid4()}"):
        connection.request("GET", path, headers=dict(api.headers))
        response = connection.getresponse()
        response.read()
        assert response.getheader("Connection", "keep-alive").lower() != "close"
        assert connection.sock is not None
        assert connection.sock.getsockname() == local
    connection.close()


def test_an_idle_connection_stays_open(api: Api) -> None:
    """75 seconds are promised; beyond the few that servers have as their default is what is looked at."""
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    connection.request("GET", "/users/me", headers=dict(api.headers))
    response = connection.getresponse()
    response.read()
    announced = re.search(r"timeout=(\d+)", response.getheader("Keep-Alive", ""))
    if announced is not None:
        assert int(announced[1]) >= 75
    connection.sock.settimeout(6)
    with pytest.raises(TimeoutError):
        connection.sock.recv(1, socket.MSG_PEEK)  # an answer here would be the server's goodbye
    connection.sock.settimeout(30)
    connection.request("GET", "/users/me", headers=dict(api.headers))
    assert connection.getresponse().status == 200
    connection.close()


# --- errors


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/nowhere", "/jobs/a/b/c/d", "/job/x", "/users/you/x", "/work/x"])
def test_an_unknown_route_is_404(api: Api, nobody: Api, method: str, path: str) -> None:
    for caller in (api, nobody):
        assert expect_error(404, caller.call(method, path))["error"] == "Route Not Found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/jobs"),
        ("PATCH", "/jobs"),
        ("GET", "/job"),
        ("GET", "/jobs/{id}/heartbeat"),
        ("POST", "/work"),
        ("PUT", "/users/me"),
        ("PUT", "/users"),
        ("POST", "/healthz"),
    ],
)
def test_a_wrong_method_is_405(api: Api, method: str, path: str) -> None:
    answer = api.call(method, filled(path), {})
    expect_error(405, answer)
    assert answer.headers["Allow"]


NO_JSON = [
    b"",
    b"{",
    b"nonsense",
    b"{'a': 1}",
    b"<html>",
    b"\xff\xfe{}",
    b"\x00",
    b'{"command": "true",}',
    b"NaN",
    b'{"command": Infinity}',
    b'"\xed\xa0\x80"',
    b"{}{}",
]


@pytest.mark.parametrize("raw", NO_JSON)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/jobs/{id}/completed"])
def test_a_body_that_is_no_json_is_400(api: Api, path: str, raw: bytes) -> None:
    expect_error(400, api.call("POST", filled(path, api.submit()["id"]), raw=raw))
    assert len(api.listed()) == 1


# What breaks a stock stack. Each is put in place of a definition's command, and of its whole.
HOSTILE = {
    "NUL": rb'"\u0000"',
    "half a surrogate pair": rb'"\ud800"',
    "the other half": rb'"a\udc00b"',
    "a huge integer": b"1" + b"0" * 400,
    "5,000 digits": b"9" * 5000,
    "a huge exponent": b"1e999999",
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 open brackets": b"[" * 100_000,
    "100,000 braces": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}
PLACES = ["command", "arguments", "environment", "container_group_id", "sync", "max_failures", "webhook", "colour"]


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", [*PLACES[:-1], "machine_id"])
def test_hostile_json_in_a_field_is_400(api: Api, place: str, hostile: bytes) -> None:
    if place == "machine_id":
        path, fields = f"/jobs/{api.submit()['id']}/completed", {"container_group_id": "g"}
    else:
        path, fields = "/jobs", api.definition(heartbeat_interval=30)
    body = json.dumps({**fields, place: "<here>"}).encode().replace(b'"<here>"', hostile)
    expect_error(400, api.call("POST", path, raw=body))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_hostile_json_as_a_body_is_400(api: Api, path: str, hostile: bytes) -> None:
    expect_error(400, api.call("POST", path, raw=hostile))
    expect_error(400, api.call("POST", path, raw=b"[" + hostile + b"]"))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_in_an_unknown_field_breaks_nothing(api: Api, hostile: bytes) -> None:
    body = json.dumps(api.definition(colour="<here>")).encode().replace(b'"<here>"', hostile)
    answer = api.call("POST", "/jobs", raw=body)
    assert answer.status in (202, 400)


@pytest.mark.parametrize(
    "definition",
    [
        {"arguments": ["\0"]},
        {"environment": {"A": "\0"}},
        {"environment": {"\ud800": "x"}},
        {"environment": {"A": "\ud800"}},
        {"sync": {"before": [{"bucket": "b", "prefix": "\0", "local_path": "l", "direction": "download"}]}},
        {"container_group_id": "\ud800"},
        {"webhook": "http://a.example/\0"},
        {"webhook": "http://a.example/\ud800"},
    ],
)
def test_text_that_cannot_be_kept_is_400(api: Api, definition: Json) -> None:
    expect_error(400, api.post("/jobs", api.definition(**definition)))


@pytest.mark.parametrize(
    "query", ["page=%00", "container_group_id=%ff%fe", "status=%ED%A0%80", "page=%", "&&&==="]
)
def test_a_hostile_query_is_no_fault_of_the_server(api: Api, query: str) -> None:
    answer = raw_request(api.url, "GET", f"/jobs?{query}", headers=api.headers)
    assert answer.status in (200, 400)


def test_an_error_speaks_json_to_a_browser_too(nobody: Api) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}
    expect_error(401, nobody.call("GET", "/jobs", headers=browser))
    expect_error(404, nobody.call("GET", "/nowhere", headers=browser))


# --- times and ids


def test_every_time_of_a_job_is_utc_with_milliseconds(api: Api) -> None:
    job = api.claimed("m", max_failures=1)
    api.report("failed", job, "m")
    job = api.job(job)
    times = ("created", "started", "heartbeat", "failed")
    assert all(TIME.fullmatch(job[name]) for name in times)
    assert [job["completed"], job["canceled"]] == [None, None]
    assert job["created"] <= job["started"] <= job["failed"]


NO_IDS = ["x", "1", "null", "undefined", "%00", "%20", "..%2f", "x" * 3000, "٣" * 36, f"{uuid.uuid4()}x", "%ff"]


@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
def test_an_id_that_is_no_uuid_is_404(api: Api, method: str, path: str) -> None:
    for value in NO_IDS:
        expect_error(404, call(api, method, path, value))


@pytest.mark.parametrize("value", NO_IDS, ids=range(len(NO_IDS)))
def test_a_user_s_id_that_is_no_uuid_is_404(admin: Api, value: str) -> None:
    expect_error(404, call(admin, "POST", "/users/{id}/token", value))


# --- auth


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_credential_every_route_is_401(api: Api, nobody: Api, method: str, path: str) -> None:
    job = api.submit()
    expect_error(401, call(nobody, method, path, job["id"]))
    assert api.job(job) == job


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_with_a_wrong_credential_every_route_is_403(api: Api, nobody: Api, method: str, path: str) -> None:
    job = api.submit()
    expect_error(403, call(nobody.with_headers({"X-Kelpie-Key": "wrong"}), method, path, job["id"]))
    assert api.job(job) == job


@pytest.mark.parametrize("path", OPEN_ROUTES)
def test_docs_health_and_metrics_need_no_credential(nobody: Api, path: str) -> None:
    answer = nobody.get(path)
    while answer.status in (301, 302, 307, 308):
        answer = nobody.get(answer.headers["Location"].removeprefix(nobody.url))
    expect(200, answer)
    expect(
        200, nobody.with_headers({"X-Kelpie-Key": "wrong"}).get(path.rstrip("/")) if path != "/docs" else answer
    )


# --- tenancy


def without_id(answer: Answer, job_id: str) -> tuple[int, bytes]:
    return answer.status, answer.body.replace(job_id.encode(), b"ID")


@pytest.mark.parametrize("claim", [False, True], ids=["pending", "running"])
@pytest.mark.parametrize(("method", "path"), JOB_ROUTES)
def test_somebody_else_s_id_answers_exactly_like_an_unknown_one(
    user: User, stranger: Api, method: str, path: str, claim: bool
) -> None:
    api = user.api("one")
    job = api.claimed("m") if claim else api.submit()
    unknown = str(uuid.uuid4())
    for other in (stranger, user.api("two")):
        other = Api(other.url, other.session, other.headers, api.group)
        foreign = call(other, method, path, job["id"])
        assert without_id(foreign, job["id"]) == without_id(call(other, method, path, unknown), unknown)
        if path.endswith("/completed"):  # without an attempt, as the original's worker sends it
            assert foreign.json["message"].startswith("Ignored: ")
        else:
            expect_error(404, foreign)
        assert other.listed() == []
    assert api.job(job) == job


def test_the_admin_sees_the_jobs_of_all(admin: Api, api: Api, stranger: Api) -> None:
    jobs = [api.submit(), stranger.submit(container_group_id=api.group)]
    assert [admin.job(job) for job in jobs] == jobs
    listed = admin.listed(container_group_id=api.group)
    assert [job["id"] for job in listed] == [job["id"] for job in reversed(jobs)]
    expect(202, admin.delete(f"/jobs/{jobs[0]['id']}"))
    assert api.job(jobs[0])["status"] == "canceled"


# --- CORS

PREFLIGHT = {
    "Origin": "https://somewhere.example",
    "Access-Control-Request-Headers": "x-kelpie-key, salad-api-key, salad-organization, salad-project,"
    " authorization, content-type",
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_preflight_is_answered_without_a_credential(nobody: Api, method: str, path: str) -> None:
    headers = {**PREFLIGHT, "Access-Control-Request-Method": method}
    answer = nobody.call("OPTIONS", filled(path), headers=headers)
    assert answer.status in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert method in listed_in(answer, "Access-Control-Allow-Methods", str.upper)
    allowed = listed_in(answer, "Access-Control-Allow-Headers", str.lower)
    assert allowed >= {name.strip() for name in PREFLIGHT["Access-Control-Request-Headers"].split(",")}


def listed_in(answer: Answer, header: str, spelled: Any) -> set[str]:
    return {spelled(name.strip()) for name in answer.headers[header].split(",")}


def test_any_origin_may_read_answers_and_errors(api: Api, nobody: Api) -> None:
    origin = {"Origin": "https://somewhere.example"}
    for answer in (
        api.call("GET", "/jobs", headers=origin),
        nobody.call("GET", "/jobs", headers=origin),
        api.call("GET", "/nowhere", headers=origin),
        api.call("POST", "/jobs", {}, headers=origin),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_the_operator_may_name_the_origins(other_stack: Stack) -> None:
    nobody = other_stack.caller({})
    for origin, allowed in (("https://console.example", True), ("https://somewhere.example", False)):
        headers = {**PREFLIGHT, "Origin": origin, "Access-Control-Request-Method": "GET"}
        for answer in (
            nobody.call("OPTIONS", "/jobs", headers=headers),
            other_stack.admin.call("GET", "/users/me", headers={"Origin": origin}),
        ):
            assert (answer.headers.get("Access-Control-Allow-Origin") in (origin, "*")) == allowed


# --- OpenAPI and docs


def document(nobody: Api) -> Json:
    return expect(200, nobody.get("/openapi.json")).json


def test_the_document_is_openapi_3(nobody: Api) -> None:
    assert document(nobody)["openapi"].startswith("3.")
    validate(document(nobody))


def test_the_document_has_three_security_schemes(nobody: Api) -> None:
    schemes = document(nobody)["components"]["securitySchemes"].values()
    headers = {scheme["name"] for scheme in schemes if scheme["type"] == "apiKey" and scheme["in"] == "header"}
    assert headers >= {"X-Kelpie-Key", "Salad-Api-Key"}
    assert [scheme["scheme"].lower() for scheme in schemes if scheme["type"] == "http"] == ["bearer"]


def shape(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "{}", path)


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/healthz"), ("GET", "/readyz")])
def test_the_document_has_every_route(nobody: Api, method: str, path: str) -> None:
    documented = {shape(found): operations for found, operations in document(nobody)["paths"].items()}
    assert method.lower() in documented[shape(path)]


def test_the_document_says_what_is_answered(api: Api, nobody: Api) -> None:
    documented = {shape(found): operations for found, operations in document(nobody)["paths"].items()}
    job = api.submit()
    for method, path in ROUTES:
        responses = documented[shape(path)][method.lower()]["responses"]
        for caller in (api, nobody):
            assert str(call(caller, method, path, job["id"]).status) in responses, (method, path)


def test_the_document_gives_errors_their_one_shape(nobody: Api) -> None:
    found = document(nobody)
    for path, operations in found["paths"].items():
        for method in {"get", "post", "put", "patch", "delete"} & set(operations):
            for status, response in operations[method]["responses"].items():
                if status == "default" or status.startswith(("4", "5")):
                    schema = documented_schema(found, response)
                    assert set(schema["properties"]) == ERROR_KEYS, (method, path, status)


def documented_schema(found: Json, response: Json) -> Json:
    response = resolved(found, response)
    return resolved(found, response["content"]["application/json"]["schema"])


def resolved(found: Json, part: Json) -> Json:
    while "$ref" in part:
        reference = part["$ref"].removeprefix("#/").split("/")
        part = found
        for name in reference:
            part = part[name]
    return part


def test_the_document_is_what_its_routes_refuse_by(nobody: Api) -> None:
    """A route that needs a credential says so, the others do not."""
    found = document(nobody)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            if method in ("get", "post", "put", "patch", "delete"):
                secured = bool(operation.get("security", found.get("security")))
                assert secured == (path not in OPEN_ROUTES), (method, path)


def test_swagger_ui_is_served_with_its_assets_by_this_server(nobody: Api) -> None:
    answer = nobody.get("/docs")
    path = "/docs"
    if answer.status in (301, 302, 307, 308):
        path = answer.headers["Location"].removeprefix(nobody.url)
        answer = nobody.get(path)
    page = expect(200, answer).body.decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "swagger" in page.lower()
    assets = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']([^\"']+)", page)
    assert any(asset.split("?")[0].endswith(".js") for asset in assets)
    assert any(asset.split("?")[0].endswith(".css") for asset in assets)
    for asset in assets:
        assert not re.match(r"(https?:)?//", asset), asset
        target = asset if asset.startswith("/") else f"{path.rsplit('/', 1)[0]}/{asset.removeprefix('./')}"
        expect(200, nobody.get(target))


# --- limits


def batch_of_size(api: Api, size: int) -> bytes:
    """One small job and white space up to that size."""
    body = json.dumps([api.definition()]).encode()
    return body[:-1] + b" " * (size - len(body)) + b"]"


def test_a_body_of_16_mebibytes_is_accepted(api: Api) -> None:
    expect(202, api.call("POST", "/jobs/batch", raw=batch_of_size(api, 16 * MEBI)))


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_a_larger_body_is_413(api: Api, chunked: bool) -> None:
    body = batch_of_size(api, 16 * MEBI + 1)
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=60)
    length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
    connection.putrequest("POST", "/jobs/batch")
    for name, value in {**api.headers, **length}.items():
        connection.putheader(name, value)
    connection.endheaders()
    pieces = [body[start : start + MEBI] for start in range(0, len(body), MEBI)]
    try:
        for piece in pieces:
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            connection.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before it was all there; the answer is still to be read
    response = connection.getresponse()
    expect_error(413, Answer(response.status, dict(response.getheaders()), response.read()))
    connection.close()
    assert api.listed() == []


def test_a_body_whose_length_is_too_much_is_refused_before_it_comes(api: Api) -> None:
    headers = {**api.headers, "Content-Length": str(10**12)}
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=30)
    connection.putrequest("POST", "/jobs")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    expect_error(413, Answer(response.status, dict(response.getheaders()), response.read()))
    connection.close()
