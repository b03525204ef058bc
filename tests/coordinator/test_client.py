"""What the worker makes of the API's answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from kelpie_worker import config, logs
from kelpie_worker.coordinator.client import Api, ClaimRefused, Unreachable, _presentable, longest_wait
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
        (response(200, b"[]"), frozenset()),  # the server itself is one of the original API now
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
