"""Every refusal has one shape, and no request is answered with 500 (docs/design/protocol.md, Errors)."""

from __future__ import annotations

import io
import json
from functools import reduce

import pytest
from flask import Flask

from kelpie_api.db import Database
from kelpie_api.web.body import LARGEST_BODY
from kelpie_api.web.requests import EXTENSIONS
from kelpie_api.web.sessions import is_page
from tests.helpers import Client, definition, refused, rows_of_jobs

NESTED = 100_000


def job_with(text: bytes) -> bytes:
    """A submission whose command is this raw JSON value; other fields may follow it."""
    return b'{"command": %s, "container_group_id": "g1"}' % text


HOSTILE = {
    "no body": b"",
    "only blanks": b" \n\t ",
    "no JSON": b"command=work",
    "half an object": b'{"command": "work"',
    "two values": b'{"command": "work"} {}',
    "a list": b"[]",
    "a number": b"1",
    "a string": b'"work"',
    "null": b"null",
    "true": b"true",
    "no UTF-8": job_with(b'"\xff\xfe"'),
    "UTF-16": json.dumps(definition()).encode("utf-16"),
    "a NUL": job_with(rb'"a\u0000b"'),
    "a NUL in a name": job_with(rb'"work", "environment": {"a\u0000b": "c"}'),
    "a NUL in an unknown field": job_with(rb'"work", "unknown": "\u0000"'),
    "half a surrogate pair": job_with(rb'"\ud800"'),
    "the other half": job_with(rb'"\udfff"'),
    "a raw control character": job_with(b'"a\0b"'),
    "100,000 brackets": b"[" * NESTED,
    "100,000 closed brackets": b"[" * NESTED + b"]" * NESTED,
    "100,000 braces": b'{"a":' * NESTED,
    "a deep unknown field": job_with(b'"work", "x": ' + b"[" * 500 + b"]" * 500),
    "an integer of 5,000 digits": job_with(b'"work", "max_failures": ' + b"9" * 5000),
    "an integer beyond the column": job_with(b'"work", "max_failures": 99999999999999999999'),
    "NaN": job_with(b'"work", "max_failures": NaN'),
    "Infinity": job_with(b'"work", "max_failures": -Infinity'),
    "a number that overflows": job_with(b'"work", "max_failures": 1e999'),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("path", ["/jobs", "/job", "/jobs/batch"])
def test_a_hostile_submission_is_a_400_and_stores_nothing(
    api: Client, db: Database, path: str, body: bytes
) -> None:
    refused(api.post(path, body), 400)
    assert rows_of_jobs(db)["jobs"] == []


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_report_is_a_400(api: Client, body: bytes) -> None:
    job = api.submit()
    refused(api.post(f"/jobs/{job['id']}/heartbeat", body), 400)


@pytest.mark.parametrize("path", ["/jobs/a/b/c", "/.//jobs", "/static/x", "/jobs/%00/x"])
def test_an_unknown_route_is_a_404_in_the_common_shape(api: Client, path: str) -> None:
    assert refused(api.get(path), 404)["error"] == "Route Not Found"


def test_a_wrong_method_is_a_405_that_names_the_right_ones(api: Client) -> None:
    answer = api.call("PUT", "/jobs/batch")
    refused(answer, 405)
    assert answer.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_batch_is_also_a_path_with_an_id_that_no_job_has(api: Client, method: str) -> None:
    answer = api.call(method, "/jobs/batch")
    assert "is not a UUID" in refused(answer, 404)["message"]
    assert "POST" in api.call("PUT", "/jobs/batch").headers["Allow"]


def test_a_body_over_16_mib_is_a_413(api: Client, db: Database) -> None:
    fits = json.dumps(definition()).encode().ljust(16 * 1024 * 1024)
    assert api.post("/jobs", fits).status_code == 202
    refused(api.post("/jobs", fits + b" "), 413)
    assert len(rows_of_jobs(db)["jobs"]) == 1


NOT_IDS = [
    "x",
    "123",
    "null",
    "0" * 31,
    "g" * 32,
    "%00",
    "%FF",
    "' or 1=1 --",
    "8b9c902c-7da6-4af3-be0b-59cd4487895",
    "8b9c902c-7da6-4af3-be0b-59cd4487895\N{FULLWIDTH DIGIT ONE}",
    "8b9c902c-7da6-4af3-be0b-59cd448789\N{ARABIC-INDIC DIGIT ONE}1",
    "8b9c902c_7da6_4af3be0b59cd44878951",
    "{8b9c902c-7da6-4af3-be0b-59cd44878951}",
    "urn:uuid:8b9c902c-7da6-4af3-be0b-59cd44878951",
    "8b9c902c-7da6-4af3-be0b-59cd44878951%0A",
    "x" * 5000,
]


@pytest.mark.parametrize("not_an_id", NOT_IDS)
@pytest.mark.parametrize(
    ("method", "rest"), [("GET", ""), ("DELETE", ""), ("GET", "/attempts"), ("GET", "/events")]
)
def test_an_id_that_is_no_uuid_is_a_404(api: Client, method: str, rest: str, not_an_id: str) -> None:
    refused(api.call(method, f"/jobs/{not_an_id}{rest}"), 404)


def test_a_body_is_json_also_where_its_content_type_says_xml(api: Client) -> None:
    answer = api.call("POST", "/jobs", definition(), {"Content-Type": "application/xml"})
    assert answer.status_code == 202


def test_a_listing_ignores_the_parameters_of_other_routes(api: Client) -> None:
    assert api.get("/jobs?wait=5").status_code == 200


def test_a_byte_order_mark_is_no_mistake(api: Client) -> None:
    assert api.post("/jobs", b"\xef\xbb\xbf" + json.dumps(definition()).encode()).status_code == 202


@pytest.mark.parametrize("key", [b"\xff\xfe", "ключ".encode(), b"\x80", b"k" * 5000])
def test_a_key_of_odd_bytes_is_unknown_like_any_other(api: Client, key: bytes) -> None:
    refused(Client(api.http, key.decode("latin-1")).get("/jobs"), 403)


@pytest.mark.parametrize("odd", ["%FF", "%ED%A0%80", "%C0%80", "a%E2%82"])
def test_a_query_that_is_no_utf_8_is_a_400(api: Client, odd: str) -> None:
    """Two machines must not become one because both were unreadable."""
    api.submit()
    refused(api.get(f"/work?machine_id={odd}&container_group_id=g1"), 400)
    refused(api.get(f"/jobs?container_group_id={odd}"), 400)
    refused(api.get(f"/work?machine_id=m1&container_group_id=g1&claim_id={odd}"), 400)


@pytest.mark.parametrize("odd", ["%", "%zz", "a%2", "%25FF", "+", "%F0%9F%9A%B2", "=&=", "&&"])
def test_an_odd_query_that_is_text_is_no_defect(api: Client, odd: str) -> None:
    assert api.get(f"/jobs?container_group_id={odd}").status_code == 200


@pytest.mark.parametrize(
    "claim_id", ["x", "%00", "%EF%BC%91" * 32, "{8b9c902c-7da6-4af3-be0b-59cd44878951}", "1_0"]
)
def test_a_claim_id_that_is_no_uuid_is_a_400(api: Client, claim_id: str) -> None:
    answer = api.get(f"/work?machine_id=m1&container_group_id=g1&claim_id={claim_id}")
    assert "claim_id" in refused(answer, 400)["errors"]


def test_of_a_name_given_twice_the_last_value_counts(api: Client) -> None:
    """As the original's parser has it; a client that repeats a name has worked until today."""
    answer = api.post("/jobs", job_with(b'"first", "command": "second"'))
    assert (answer.json or {})["command"] == "second"


def test_a_head_request_is_answered_like_a_get_and_without_a_body(app: Flask, api: Client, admin: Client) -> None:
    job_id, sweep_id = api.submit()["id"], (api.post("/sweeps", {}).json or {})["id"]
    manifest = {"machine_id": "m1", "container_group_id": "g1", "attempt": 1, "generation": 1, "files": []}
    assert api.claim() and api.call("PUT", f"/jobs/{job_id}/checkpoint", manifest).status_code == 200
    named = {"<job_id>": job_id, "<sweep_id>": sweep_id, "<name>": "swagger-ui.css"}
    for rule in app.url_map.iter_rules():
        if is_page(rule.endpoint):
            continue
        if "HEAD" in (rule.methods or set()) and "container_group_id" not in rule.arguments:
            answer = admin.call(
                "HEAD", reduce(lambda path, name: path.replace(name, named[name]), named, rule.rule)
            )
            assert (answer.status_code, answer.data) == (200, b""), rule.rule
            answer.close()  # the files of /docs are open until then


def test_a_head_request_claims_nothing(api: Client) -> None:
    api.submit()
    answer = api.call("HEAD", "/work?machine_id=m1&container_group_id=g1")
    assert answer.status_code == 405 and "HEAD" not in answer.headers["Allow"]
    assert api.claim("m1")


def test_a_bug_is_a_500_in_the_common_shape_without_its_inside(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr("kelpie_api.queue.listing.list_page", broken)
    answer = api.get("/jobs")
    assert refused(answer, 500)["error"] == "Internal Server Error"
    assert "inside" not in answer.text


@pytest.mark.parametrize("path", ["/jobs", "/nothing", "/healthz", "/users/me"])
def test_every_answer_names_the_extensions(api: Client, path: str) -> None:
    assert api.get(path).headers["Kelpie-Extensions"] == EXTENSIONS


def test_a_body_of_unknown_length_is_not_cut_but_refused(api: Client) -> None:
    """As gunicorn hands over a chunked body: without a length, and with an end."""
    body = json.dumps(definition()).encode() + b" " * LARGEST_BODY + b"GARBAGE"
    answer = api.http.open(
        "/jobs",
        method="POST",
        input_stream=io.BytesIO(body),
        headers={"X-Kelpie-Key": str(api.key), "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    refused(answer, 413)
    assert (api.get("/jobs").json or {})["_count"] == 0
