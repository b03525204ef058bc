"""Guesses at the administrator's key are slowed down, for each address and for all, and the right key is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import admin_key
from kelpie_api.auth.admin_key import OF_ALL, OF_AN_ADDRESS, PAUSING, PAUSING_OF_AN_ADDRESS, AdminKey, network_of
from kelpie_api.auth.users import digest
from kelpie_api.errors import TooManyRequests
from local_stack.processes import wait_for
from tests.conftest import ADMIN_KEY
from tests.helpers import Client, refused

RIGHT = digest(ADMIN_KEY)


@dataclass
class Attack:
    """Guesses at a key, by a clock that stands still unless a test sets it on."""

    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self.key = AdminKey(RIGHT, self.pauses.append, lambda: self.now)

    def guess(self, times: int, address: str = "192.0.2.1") -> None:
        for _ in range(times):
            self.made += 1
            assert not self.key.is_it(digest(f"guess {self.made}"), address)

    def guess_from_everywhere(self) -> None:
        """Use up what all addresses have together."""
        for number in range(OF_ALL):
            self.guess(1, f"198.51.{number // 250}.{number % 250}")

    def pauses_for(self, address: str) -> bool:
        """Whether the right key pauses, if it comes from this address."""
        before = len(self.pauses)
        assert self.key.is_it(RIGHT, address)
        return len(self.pauses) > before


@pytest.fixture
def attack() -> Attack:
    return Attack()


def test_an_address_may_guess_some_times_at_once_and_then_pauses_each_time(attack: Attack) -> None:
    attack.guess(OF_AN_ADDRESS)
    assert attack.pauses == []
    attack.guess(10)
    assert attack.pauses == [admin_key.PAUSE] * 10


def test_an_address_that_waits_may_guess_anew(attack: Attack) -> None:
    attack.guess(OF_AN_ADDRESS + 5)
    pauses = len(attack.pauses)
    attack.now += 3600.0
    attack.guess(OF_AN_ADDRESS)
    assert len(attack.pauses) == pauses


def test_many_addresses_together_are_slowed_down_after_the_first_guess_of_each(attack: Attack) -> None:
    attack.guess_from_everywhere()
    attack.guess(1, "203.0.113.1")
    assert attack.pauses == []
    attack.guess(1, "203.0.113.1")
    assert len(attack.pauses) == 1


def test_an_administrator_at_another_address_never_pauses(attack: Attack) -> None:
    attack.guess(OF_AN_ADDRESS + 5)
    attack.guess_from_everywhere()
    assert not attack.pauses_for("203.0.113.1")


def test_an_administrator_at_the_attackers_address_pauses_once_and_then_never_again(attack: Attack) -> None:
    attack.guess(OF_AN_ADDRESS + 5)
    assert attack.pauses_for("192.0.2.1")
    attack.guess(5)
    assert not attack.pauses_for("192.0.2.1")


def test_guesses_from_an_address_of_the_administrator_are_slowed_down_all_the_same(attack: Attack) -> None:
    assert attack.key.is_it(RIGHT, "192.0.2.1")
    attack.guess(OF_AN_ADDRESS + 5)
    assert attack.pauses


def test_a_wrong_key_that_is_repeated_uses_nothing_up(attack: Attack) -> None:
    for _ in range(10 * OF_AN_ADDRESS):
        assert not attack.key.is_it(digest("of a worker"), "192.0.2.1")
    attack.guess(OF_AN_ADDRESS - 1)
    assert attack.pauses == []


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:" + "x" * 1000, "unix:" + "x" * 59),
    ],
)
def test_a_sender_is_what_it_cannot_choose(address: str, network: str) -> None:
    assert network_of(address) == network


class Held:
    """A pause that lasts until the test ends it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.key = AdminKey(RIGHT, lambda _: self.over.wait() and None, lambda: 1000.0)
        self.threads: list[threading.Thread] = []

    def guess(self, address: str) -> None:
        guess = digest(f"guess {len(self.threads)}")
        thread = threading.Thread(target=lambda: self.key.is_it(guess, address), daemon=True)
        self.threads.append(thread)
        thread.start()

    def use_up(self, address: str) -> None:
        for number in range(OF_AN_ADDRESS):
            self.key.is_it(digest(f"{address} {number}"), address)


@pytest.fixture
def held() -> Iterator[Held]:
    guesses = Held()
    yield guesses
    guesses.over.set()
    for thread in guesses.threads:
        thread.join()


def test_few_guesses_of_an_address_pause_at_a_time_and_further_ones_are_refused(held: Held) -> None:
    held.use_up("192.0.2.1")
    for _ in range(PAUSING_OF_AN_ADDRESS):
        held.guess("192.0.2.1")
    wait_for(lambda: held.key.pausing.total() == PAUSING_OF_AN_ADDRESS, "guesses that pause", pause=0.01)
    with pytest.raises(TooManyRequests) as refusal:
        held.key.is_it(digest("one more"), "192.0.2.1")
    assert refusal.value.status == 429 and int(refusal.value.headers()["Retry-After"]) >= 1
    assert held.key.is_it(RIGHT, "192.0.2.2")
    held.over.set()
    wait_for(lambda: not held.key.pausing, "no guess that pauses", pause=0.01)


def test_few_threads_pause_however_many_addresses_guess(held: Held) -> None:
    for number in range(OF_ALL):
        held.key.is_it(digest(f"first {number}"), f"198.51.{number // 250}.{number % 250}")
    for number in range(PAUSING):
        held.guess(f"198.51.0.{number}")
    wait_for(lambda: held.key.pausing.total() == PAUSING, "guesses that pause", pause=0.01)
    assert not held.key.is_it(digest("its first"), "203.0.113.1")
    with pytest.raises(TooManyRequests):
        held.key.is_it(digest("its second"), "203.0.113.1")


class TestOverHttp:
    @pytest.fixture(autouse=True)
    def without_pauses(self, app: Flask) -> list[float]:
        pauses: list[float] = []
        app.extensions["kelpie"].authenticator.admin_key = AdminKey(RIGHT, pauses.append, lambda: 1000.0)
        return pauses

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {"proxies": 2}

    @staticmethod
    def guess(app: Flask, forwarded: str, number: int) -> None:
        guess = Client(app.test_client(), f"guess {number}")
        refused(guess.get("/jobs", **{"X-Forwarded-For": forwarded}), 403)

    def test_wrong_keys_pause_and_right_ones_of_administrator_and_user_do_not(
        self, app: Flask, admin: Client, api: Client, without_pauses: list[float]
    ) -> None:
        assert admin.get("/users/me").status_code == 200
        for number in range(OF_AN_ADDRESS + 3):
            self.guess(app, "", number)
        assert without_pauses == [admin_key.PAUSE] * 4
        assert admin.get("/users/me").status_code == 200
        assert api.get("/users/me").status_code == 200
        assert len(without_pauses) == 4

    def test_where_too_many_pause_the_answer_is_a_429(
        self, app: Flask, admin: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert admin.get("/users/me").status_code == 200
        monkeypatch.setattr(admin_key, "PAUSING", 0)
        for number in range(OF_AN_ADDRESS - 1):
            self.guess(app, "", number)
        answer = Client(app.test_client(), "one more").get("/jobs")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "X-Kelpie-Key" in refused(answer, 429)["message"]
        assert admin.get("/users/me").status_code == 200

    def test_a_client_is_what_the_outermost_proxy_says_and_nothing_that_it_writes_itself(
        self, app: Flask, without_pauses: list[float]
    ) -> None:
        for number in range(OF_AN_ADDRESS + 3):
            self.guess(app, f"10.9.8.{number}, 203.0.113.7, 10.0.0.1", number)
        assert len(without_pauses) == 3
        self.guess(app, "203.0.113.8, 10.0.0.1", 1000)
        assert len(without_pauses) == 3
