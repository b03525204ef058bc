"""Asking a service that does not behave: the answer comes in time, or there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from werkzeug.wrappers import Response

from kelpie_api.errors import NoAnswer
from kelpie_api.net import http, single_flight
from kelpie_api.net.http import get
from kelpie_api.net.single_flight import Budget, Flights
from local_stack.processes import wait_for
from tests.doubles.tokens import JWKS, TokenDouble, json_of


@pytest.fixture
def service() -> Iterator[TokenDouble]:
    double = TokenDouble()
    yield double
    double.end()


@pytest.fixture
def flights() -> Iterator[Flights]:
    flights = Flights()
    yield flights
    flights.end()


class TestGet:
    def test_brings_status_and_json(self, service: TokenDouble) -> None:
        reply = get(service.jwks_url, {}, 5)
        assert (reply.status, reply.json) == (200, {"keys": service.published})

    @pytest.mark.parametrize(
        ("said", "seconds"),
        [("30", 30.0), ("", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("-1", 0.0), ("9" * 50, 0.0)],
    )
    def test_tells_how_long_to_wait(self, service: TokenDouble, said: str, seconds: float) -> None:
        service.instead = lambda: Response("{}", 429, {"Retry-After": said})
        assert get(service.jwks_url, {}, 5).retry_after == seconds

    @pytest.mark.parametrize("zone", ["GMT", "-0000", ""])
    def test_takes_a_date_for_as_many_seconds_as_there_are_until_then(
        self, service: TokenDouble, zone: str
    ) -> None:
        date = f"{datetime.now(UTC) + timedelta(minutes=2):%a, %d %b %Y %H:%M:%S} {zone}"
        service.instead = lambda: Response("{}", 429, {"Retry-After": date.strip()})
        assert 60 < get(service.jwks_url, {}, 5).retry_after <= 120

    @pytest.mark.parametrize("body", ["<html>", "", "[" * 100_000, "9" * 5000, b"\xff"])
    def test_takes_what_is_no_json_for_none(self, service: TokenDouble, body: str | bytes) -> None:
        service.instead = lambda: Response(body)
        assert get(service.jwks_url, {}, 5).json is None

    def test_does_not_follow_to_another_place(self, service: TokenDouble) -> None:
        service.instead = lambda: Response("", 302, {"Location": service.url + "/elsewhere"})
        assert get(service.jwks_url, {}, 5).status == 302
        assert service.asked == [JWKS]

    def test_gives_up_on_an_answer_that_never_ends(
        self, service: TokenDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "LARGEST_ANSWER", 1000)
        service.instead = lambda: json_of({"keys": "x" * 2000})
        with pytest.raises(NoAnswer, match="too long"):
            get(service.jwks_url, {}, 5)

    def test_gives_up_on_an_answer_that_drips(self, service: TokenDouble) -> None:
        """Each byte comes in time, all of them never would."""
        ended = threading.Event()

        def drops() -> Iterator[bytes]:
            while not ended.wait(0.05):
                yield b" "

        service.instead = lambda: Response(drops())
        with pytest.raises(NoAnswer):
            get(service.jwks_url, {}, 0.5)
        ended.set()

    @pytest.mark.parametrize("begun", [b"HTT", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\n"])
    def test_gives_up_on_headers_that_drip(self, begun: bytes) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            ended = threading.Event()

            def talk() -> None:
                with listener.accept()[0] as line, suppress(OSError):
                    line.sendall(begun)
                    while not ended.wait(0.05):
                        line.sendall(b"a")

            with ThreadPoolExecutor(2) as pool:
                pool.submit(talk)
                asked = pool.submit(get, f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, 0.5)
                wait([asked], 20)
                ended.set()
                with pytest.raises(NoAnswer, match="Timeout"):
                    asked.result()

    def test_takes_an_answer_that_is_cut_off_for_none(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener, ThreadPoolExecutor(1) as pool:

            def talk() -> None:
                with listener.accept()[0] as line:
                    line.recv(1000)
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}")

            pool.submit(talk)
            with pytest.raises(NoAnswer, match="cut off"):
                get(f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, 5)

    def test_gives_up_on_a_refused_connection_and_on_rubbish(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/"

            def talk() -> None:
                with listener.accept()[0] as line:
                    line.recv(1000)
                    line.sendall(b"\0\xff rubbish\r\n\r\n")

            with ThreadPoolExecutor(1) as pool:
                pool.submit(talk)
                with pytest.raises(NoAnswer):
                    get(address, {}, 5)
        with pytest.raises(NoAnswer):
            get(address, {}, 5)

    def test_reads_no_proxy_from_the_environment(
        self, service: TokenDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        assert get(service.jwks_url, {}, 5).status == 200


class TestFlights:
    def test_a_caller_that_gives_up_leaves_and_the_answer_still_comes(self, flights: Flights) -> None:
        gate, left = threading.Event(), []

        def asking_slowly() -> str:
            gate.wait(30)
            left.append("answer")
            return "answer"

        with pytest.raises(NoAnswer):
            flights.ask("question", asking_slowly, 0.0)
        assert flights.under_way
        gate.set()
        wait_for(lambda: left == ["answer"] and not flights.under_way, "the answer", pause=0.01)

    def test_an_error_reaches_every_waiting_caller_and_the_log(
        self, flights: Flights, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise LookupError("a defect")

        with pytest.raises(LookupError):
            flights.ask("question", fail, 5)
        wait_for(lambda: not flights.under_way, "the end", pause=0.01)
        wait_for(lambda: "asking_failed" in caplog.messages, "the log line", pause=0.01)

    def test_too_many_questions_are_not_asked(self, flights: Flights) -> None:
        flights.most = 3
        gate = threading.Event()
        waiting: Callable[[], bool] = lambda: gate.wait(30)  # noqa: E731
        for number in range(3):
            with pytest.raises(NoAnswer, match="yet"):
                flights.ask(number, waiting, 0.0)
        with pytest.raises(NoAnswer, match="too many"):
            flights.ask("one more", waiting, 5)
        gate.set()

    def test_what_was_asked_too_long_ago_is_asked_anew(
        self, flights: Flights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = threading.Event()
        with pytest.raises(NoAnswer, match="yet"):
            flights.ask("question", lambda: gate.wait(30), 0.0)
        with pytest.raises(NoAnswer, match="yet"):
            flights.ask("question", lambda: "another", 0.0)
        monkeypatch.setattr(single_flight, "GIVEN_UP", -1.0)
        assert flights.ask("question", lambda: "another", 5) == "another"
        gate.set()

    def test_a_question_beyond_the_budget_is_not_asked_and_waiting_for_one_costs_nothing(
        self, flights: Flights
    ) -> None:
        gate, budget = threading.Event(), Budget(0.001, 1)
        for _ in range(2):
            with pytest.raises(NoAnswer, match="yet"):
                flights.ask("question", lambda: gate.wait(30), 0.0, budget)
        with pytest.raises(NoAnswer, match="often enough"):
            flights.ask("another", lambda: "answer", 5, budget)
        gate.set()
        assert flights.ask("another", lambda: "answer", 5) == "answer"


class TestABudget:
    def test_is_spent_at_once_and_fills_up_again(self) -> None:
        clock = [1000.0]
        budget = Budget(0.1, 3, lambda: clock[0])
        assert [budget.spare() for _ in range(5)] == [True, True, True, False, False]
        clock[0] += 10
        assert [budget.spare() for _ in range(2)] == [True, False]
