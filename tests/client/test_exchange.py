"""Which requests are sent again, and what answers mean."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

import kelpie
from kelpie import Client
from kelpie.settings import Settings

Answer = httpx.Response | Exception


def answering(*answers: Answer) -> tuple[Client, list[httpx.Request]]:
    """A client that gets these answers in turn, and the requests that it sent."""
    left, seen = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    settings = Settings("http://kelpie.test", {"X-Kelpie-Key": "k"})
    return Client(settings=settings, transport=httpx.MockTransport(answer), patience=1.0), seen


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.steps.time.sleep", lambda seconds: None)


LOST = httpx.ReadError("reset")
UNSENT = httpx.ConnectError("refused")
OK = httpx.Response(200, json={"id": "1", "status": "pending"}, headers={"Kelpie-Extensions": "attempt"})
AWAY = httpx.Response(503, json={"error": "Service Unavailable", "message": "The database does not answer."})
DEFECT = httpx.Response(500, json={"error": "Internal Server Error", "message": "A defect."})


@pytest.mark.parametrize(
    ("answers", "requests"),
    [((LOST, OK), 2), ((UNSENT, OK), 2), ((AWAY, AWAY, OK), 3), ((DEFECT, OK), 1), ((OK,), 1)],
    ids=["lost", "refused connection", "503 twice", "500", "answered"],
)
def test_a_read_is_sent_again_after_lost_connections_and_503_only(
    answers: tuple[Answer, ...], requests: int
) -> None:
    api, seen = answering(*answers)
    try:
        api.job("1")
    except kelpie.Unreachable:
        assert answers[0] is DEFECT
    assert len(seen) == requests


def test_a_submission_is_sent_again_with_the_same_key() -> None:
    api, seen = answering(OK, LOST, AWAY, OK)
    api.submit("true")
    first, *submissions = seen
    assert first.url.path == "/healthz", "what the coordinator knows is asked before, so that the body is the same"
    keys = {request.headers["Idempotency-Key"] for request in submissions}
    assert len(submissions) == 3 and len(keys) == 1


def test_what_must_not_happen_twice_is_not_sent_again_once_it_may_have_arrived() -> None:
    api, seen = answering(OK, LOST)
    api.job("1")
    with pytest.raises(kelpie.Unreachable, match="look before you repeat it"):
        api.request("POST", "/keys", {"name": "x"})
    assert len(seen) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: httpx.Response(200, text="<html>Sign in to the Wi-Fi</html>"),
        lambda: httpx.Response(404, text="404 page not found"),
        lambda: httpx.Response(403, json={"detail": "blocked by policy"}),
    ],
    ids=["a portal", "a proxy", "a gateway"],
)
def test_what_is_no_coordinators_answer_is_told_so(make: Callable[[], httpx.Response]) -> None:
    api, _ = answering(make())
    with pytest.raises(kelpie.Unreachable, match="is no coordinator"):
        api.job("1")


def test_a_coordinator_that_is_away_is_given_up_after_the_patience() -> None:
    api, seen = answering(UNSENT)
    api.server.patience = 0.0
    with pytest.raises(kelpie.Unreachable, match=r"http://kelpie\.test does not answer \(refused\)"):
        api.job("1")
    assert len(seen) == 1


def test_every_request_names_the_client_and_its_release() -> None:
    api, seen = answering(OK)
    api.job("1")
    assert seen[0].headers["User-Agent"].startswith("kelpie-client/")


def test_between_two_attempts_the_output_is_asked_for_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr("kelpie.steps.time.sleep", paused.append)

    def answer(body: object) -> httpx.Response:
        return httpx.Response(200, json=body, headers={"Kelpie-Extensions": "attempt, output"})

    job = {"id": "1", "status": "pending", "attempt": 1}
    nothing = httpx.Response(200, headers={"Kelpie-Next-Offset": "0", "Kelpie-Extensions": "attempt, output"})
    ended = answer(job | {"status": "canceled"})
    begun = [answer(job), answer({"attempts": [{"number": 1}]})]
    api, seen = answering(*begun, answer(job), nothing, answer(job), nothing, ended, nothing)
    assert list(api.job("1").logs(follow=True)) == []
    assert (len(seen), paused) == (8, [1, 1])
