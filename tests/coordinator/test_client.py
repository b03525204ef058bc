"""What the worker makes of the API's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from kelpie_worker import config, logs
from kelpie_worker.coordinator.client import (
    Api,
    ClaimRefused,
    HeartbeatAnswer,
    ManifestRefused,
    News,
    PieceAnswer,
    PieceRefused,
    ReportAnswer,
    Response,
    Unreachable,
    _presentable,
    comes_from_coordinator,
    longest_wait,
)
from kelpie_worker.job import Job
from kelpie_worker.messages import Ending, Verdict

SETTINGS = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}

CLAIM = "5ab3a9b4-6fd1-4ef5-9a3e-0d6d3a0e9c11"


def response(status: int, content: bytes, extensions: str | None = None) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content = status, content
    made.headers["Content-Type"] = "text/html" if content.startswith(b"<") else "application/json"
    if extensions is not None:
        made.headers["Kelpie-Extensions"] = extensions
    return made


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Api]:
    """An API client whose calls get these answers in turn."""

    def make(*answers: requests.Response) -> Api:
        left = list(answers)
        monkeypatch.setattr(requests.Session, "request", lambda *_, **__: left.pop(0))
        return Api(config.load({"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}))

    return make


def test_certificates_that_are_not_there_are_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/not/there.pem")
    settings = {"KELPIE_API_URL": "https://localhost:1", "KELPIE_API_KEY": "k", "SALAD_CONTAINER_GROUP_ID": "g"}
    with pytest.raises(Unreachable, match=r"/not/there\.pem"):
        Api(config.load(settings)).claim(CLAIM)


NAMED = "attempt, claim-id, release"
LEARNED = frozenset({"attempt", "claim-id", "release"})
PAGE = b"<html>Not Found</html>"


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (response(404, PAGE), LEARNED),
        (response(502, PAGE), LEARNED),
        (response(401, b"{}", ""), LEARNED),
        (response(200, PAGE), LEARNED),
        (response(404, b'{"error": "Route Not Found"}'), LEARNED),
        (response(200, b"{}"), LEARNED),
        (response(200, b"[]"), LEARNED),  # of a gateway, perhaps
        (response(200, b"[]", "attempt"), frozenset({"attempt"})),
    ],
)
def test_only_the_api_itself_can_take_an_extension_back(
    answering: Callable[..., Api], answer: requests.Response, left: frozenset[str]
) -> None:
    api = answering(response(200, b"[]", NAMED), response(200, b"[]", NAMED), answer)
    api.claim(CLAIM)
    assert api.extensions == LEARNED
    try:
        api.claim(CLAIM)
    except (Unreachable, ClaimRefused):
        assert left == LEARNED
    assert api.extensions == left


def test_a_server_whose_claims_name_no_extensions_any_more_is_one_of_the_original_api(
    answering: Callable[..., Api],
) -> None:
    job = b'[{"id": "1", "command": "true", "attempt": 1}]'
    api = answering(*[response(200, b"[]", NAMED)] * 2, response(200, job), *[response(200, b"[]")] * 2)
    api.claim(CLAIM)
    claimed = api.claim(CLAIM).job
    assert claimed and claimed.attempt is None, "a number that this server would not compare"
    api.claim(CLAIM)
    assert api.extensions == LEARNED
    api.claim(CLAIM)
    assert api.extensions == frozenset()


@pytest.mark.parametrize("status", [400, 404, 407, 409, 413, 451])
@pytest.mark.parametrize("body", [PAGE, b"404 page not found", b""])
def test_a_page_that_a_proxy_answers_with_decides_nothing_about_a_job(
    answering: Callable[..., Api], status: int, body: bytes
) -> None:
    job = Job("claim", "1", attempt=1)
    calls: list[Callable[[Api], object]] = [
        lambda api: api.claim(CLAIM),
        lambda api: api.heartbeat(job, timeout=1),
        lambda api: api.report(job, Ending(Verdict.COMPLETED)),
        lambda api: api.recall(job),
        lambda api: api.failure_is_counted(job),
        lambda api: api.report_checkpoint(job, 1, ()),
    ]
    for call in calls:
        api = answering(response(status, body))
        api.extensions = LEARNED
        with pytest.raises(Unreachable, match=f"was answered with {status} and no JSON"):
            call(api)


KELPIES = Job("claim", "1", attempt=1)
ORIGINALS = Job("claim", "1")


@pytest.mark.parametrize(
    ("job", "named", "status", "body", "telling", "expected"),
    [
        (KELPIES, True, 404, {"error": "Not Found", "message": "No such job."}, "status", True),
        (KELPIES, True, 200, {"status": "something-new"}, "status", True),
        (KELPIES, True, 409, {"error": "Not Yours", "message": "Another has it."}, "message", True),
        (KELPIES, False, 404, {"error": "Not Found", "message": "No such job."}, "status", False),
        (KELPIES, False, 404, {"status": "error", "message": "Application not found"}, "status", False),
        (KELPIES, False, 200, {"status": "running"}, "status", False),
        (KELPIES, False, 200, {"message": "Completed reported"}, "message", False),
        (KELPIES, False, 200, {"generation": 1}, "generation", False),
        (KELPIES, False, 200, {"id": "1"}, "id", False),
        (ORIGINALS, True, 200, {"status": "something-new"}, "status", True),
        (ORIGINALS, False, 200, {"status": "running"}, "status", True),
        (ORIGINALS, False, 200, {"status": "canceled"}, "status", True),
        (ORIGINALS, False, 200, {"status": "ok"}, "status", False),
        (ORIGINALS, False, 200, {"status": None}, "status", False),
        (ORIGINALS, False, 200, [], "status", False),
        (ORIGINALS, False, 404, {"error": "Not Found", "message": "Job not found"}, "status", True),
        (ORIGINALS, False, 404, {"message": "no Route matched with those values"}, "status", False),
        (ORIGINALS, False, 404, None, "status", False),
        (ORIGINALS, False, 200, {"message": "Completed reported"}, "message", True),
        (ORIGINALS, False, 202, {"message": "Failure reported"}, "message", True),
        (ORIGINALS, False, 200, {"status": "maintenance"}, "message", False),
        (ORIGINALS, False, 400, {"error": "Invalid", "message": "No."}, "message", True),
        (ORIGINALS, False, 413, {"message": "Too large"}, "message", False),
        (ORIGINALS, False, 200, {"id": "1", "num_failures": 1}, "id", True),
        (ORIGINALS, False, 200, {"id": "another", "num_failures": 1}, "id", False),
        (ORIGINALS, False, 200, {"num_failures": 1}, "id", False),
        (ORIGINALS, False, 404, {"message": "Application not found"}, "id", False),
    ],
)
def test_an_answer_is_the_coordinators_by_its_header_or_at_the_original_by_its_shape(
    job: Job, named: bool, status: int, body: object, telling: str, expected: bool
) -> None:
    assert comes_from_coordinator(Response(status, body, names_extensions=named), job, telling) is expected


@pytest.mark.parametrize("job", [KELPIES, ORIGINALS])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"status": "error", "code": 404, "message": "Application not found"}'),
        (404, b"null"),
        (400, b'{"message": "Bad request"}'),
        (200, b'{"status": "maintenance"}'),
        (200, b"[]"),
    ],
)
def test_the_json_of_a_gateway_decides_nothing_about_a_job(
    answering: Callable[..., Api], job: Job, status: int, body: bytes
) -> None:
    calls: list[Callable[[Api], object]] = [
        lambda api: api.heartbeat(job, timeout=1),
        lambda api: api.report(job, Ending(Verdict.COMPLETED)),
        lambda api: api.recall(job),
        lambda api: api.failure_is_counted(job),
    ]
    if job.attempt is not None:
        calls.append(lambda api: api.report_checkpoint(job, 1, ()))
        calls.append(lambda api: api.report_resume(job, "clean", ""))
    for call in calls:
        api = answering(response(status, body))
        with pytest.raises(Unreachable, match=f"was answered with {status}, not by the coordinator"):
            call(api)


def test_a_manifest_that_a_proxy_finds_too_large_is_refused(answering: Callable[..., Api]) -> None:
    api = answering(response(413, b'{"error": "Payload Too Large", "message": "16 MiB."}'))
    with pytest.raises(ManifestRefused):
        api.report_checkpoint(KELPIES, 1, ())


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, ClaimRefused), (409, ClaimRefused), (422, ClaimRefused), (401, Unreachable), (403, Unreachable),
     (429, Unreachable), (302, Unreachable), (503, Unreachable)],
)  # fmt: skip
def test_a_claim_is_refused_by_a_client_error_alone(
    answering: Callable[..., Api], status: int, expected: type[Exception]
) -> None:
    api = answering(response(200, b"{}", NAMED), response(status, b'{"message": "Another one has it."}', NAMED))
    with pytest.raises(expected, match=str(status)):
        api.claim(CLAIM)


@pytest.mark.parametrize(
    ("before", "body", "expected"),
    [
        (NAMED, b'{"error": "Not Found", "message": "Application not found"}', Unreachable),
        (None, b'{"message": "Application not found"}', Unreachable),
        (None, b'{"error": "Invalid", "message": "The original says no."}', ClaimRefused),
    ],
)
def test_a_claim_is_not_refused_by_the_json_of_a_gateway(
    answering: Callable[..., Api], before: str | None, body: bytes, expected: type[Exception]
) -> None:
    api = answering(response(200, b"{}", before), response(404, body))
    with pytest.raises(expected, match="404"):
        api.claim(CLAIM)


@pytest.mark.parametrize(
    ("named", "retry_after", "pause"),
    [
        ("attempt", None, 10.0),  # the pause between polls
        ("attempt, wait", None, 1.0),  # it did not wait: it is about to end
        ("attempt, wait", "5", 5.0),  # too many wait there
        ("attempt, wait", "Wed, 21 Oct 2026 07:28:00 GMT", 1.0),
        ("attempt, wait", "99999", 60.0),
    ],
)
def test_an_empty_answer_that_came_at_once_is_not_asked_for_again_at_once(
    answering: Callable[..., Api], named: str, retry_after: str | None, pause: float
) -> None:
    answer = response(200, b"[]", named)
    if retry_after:
        answer.headers["Retry-After"] = retry_after
    api = answering(response(200, b"{}", named), answer)
    assert api.claim(CLAIM).pause == pause


def test_a_sentence_for_the_server_is_short_and_readable_and_holds_no_secret() -> None:
    logs.configure(config.load(SETTINGS | {"KELPIE_API_KEY": "canary"}))
    assert _presentable("canary: 'a\udcff\0'" + "x" * 2000) == ("***: 'a?\ufffd'" + "x" * 2000)[:1000]


@pytest.mark.parametrize(
    ("until", "seconds"), [(None, 20), (100.0, 20), (112.2, 13), (104.0, 4), (101.0, 3), (90.0, 3)]
)
def test_how_long_a_claim_may_wait(until: float | None, seconds: int) -> None:
    now = 70.0 if until == 100.0 else 100.0
    assert longest_wait(until, now) == seconds


STEERED = Job(CLAIM, "job", attempt=1, speaks=("output", "phase", "progress", "steer"))
STEERING = "attempt, claim-id, release, phase, progress, output, steer"


def test_a_claim_names_what_both_sides_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def request(session: object, method: str, url: str, **given: Any) -> requests.Response:
        asked.append(given["params"] or {})
        return response(200, b"[]", "attempt, claim-id, phase, steer, dance")

    monkeypatch.setattr(requests.Session, "request", request)
    Api(config.load(SETTINGS)).claim(CLAIM)
    assert asked[-1]["speaks"] == "phase,steer"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"status": "running"}', HeartbeatAnswer("running")),
        (
            b'{"status": "running", "stop": {"why": "hold"}, "watched": true, "deadline": 4}',
            HeartbeatAnswer("running", "hold", True, 4.0),
        ),
        (
            b'{"status": "running", "stop": "hold", "watched": 1, "deadline": NaN}',
            HeartbeatAnswer("running"),
        ),
        (b'{"status": "running", "stop": {"why": ""}, "deadline": true}', HeartbeatAnswer("running")),
    ],
)
def test_an_answer_steers_only_with_what_the_protocol_has(
    answering: Callable[..., Api], answer: bytes, expected: HeartbeatAnswer
) -> None:
    assert answering(response(200, answer, STEERING)).heartbeat(STEERED, 1) == expected


def test_a_job_that_comes_in_the_place_of_the_recalled_one_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its attempt ended between the heartbeat and the claim that was repeated."""
    told: list[tuple[str, Any]] = []

    def request(session: object, method: str, url: str, **given: Any) -> requests.Response:
        told.append((url.rpartition("/")[2], given["json"]))
        answer = (
            b'[{"id": "another", "command": "x", "attempt": 5}]' if url.endswith("/work") else b'{"message": ""}'
        )
        return response(200, answer, STEERING)

    monkeypatch.setattr(requests.Session, "request", request)
    assert Api(config.load(SETTINGS)).recall(STEERED) is None
    assert told[-1][0] == "released" and told[-1][1]["attempt"] == 5


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, b'{"next": 12, "watched": true}', PieceAnswer(12, True)),
        (200, b'{"next": 12}', PieceAnswer(12, False)),
        (409, b'{"error": "Not The Holder", "message": ""}', None),
        (404, b'{"error": "Not Found", "message": ""}', None),
        (413, b'{"error": "Too Large", "message": ""}', PieceRefused),
        (200, b'{"next": "12"}', Unreachable),
        (502, b"{}", Unreachable),
    ],
)
def test_the_answer_to_a_piece_of_output(
    answering: Callable[..., Api], status: int, answer: bytes, expected: Any
) -> None:
    api = answering(response(status, answer, STEERING))
    if isinstance(expected, type):
        with pytest.raises(expected):
            api.send_output(STEERED, 0, b"content")
    else:
        assert api.send_output(STEERED, 0, b"content") == expected


@pytest.mark.parametrize(
    ("answer", "counted"), [(b'{"message": "", "counted": false}', False), (b'{"message": ""}', True)]
)
def test_a_failure_counts_unless_the_answer_says_otherwise(
    answering: Callable[..., Api], answer: bytes, counted: bool
) -> None:
    ended = Ending(Verdict.FAILED, "exit_code", 3)
    assert answering(response(202, answer, STEERING)).report(STEERED, ended) == ReportAnswer(True, counted)


def test_news_that_are_refused_cost_neither_the_lease_nor_the_report(answering: Callable[..., Api]) -> None:
    refused = response(400, b'{"error": "Bad Request", "message": "progress: Must be an object."}', STEERING)
    api = answering(refused, response(200, b'{"status": "running"}', STEERING))
    assert api.heartbeat(STEERED, 1, News(progress={"fraction": 0.5})) == HeartbeatAnswer("running")
    api = answering(refused, response(200, b'{"message": "Completed"}', STEERING))
    assert api.report(STEERED, Ending(Verdict.COMPLETED), {"fraction": 1.0}) == ReportAnswer(accepted=True)
