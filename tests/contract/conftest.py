"""One live coordinator for all tests, a second one that is set up otherwise, and a new user for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.conftest import own_database
from tests.contract.client import Api, new_session
from tests.contract.doubles import Receiver, Salad, serving
from tests.contract.stack import Stack, User, running


@pytest.fixture(scope="session")
def http() -> Iterator[requests.Session]:
    with new_session() as session:
        yield session


@pytest.fixture(scope="session")
def salad() -> Iterator[Salad]:
    double = Salad()
    with serving(double.handler()) as url:
        double.url = url
        yield double


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    double = Receiver()
    with serving(double.handler()) as url:
        double.url = url
        yield double
        double.let_all_go()


def salad_settings(salad: Salad) -> dict[str, str]:
    return {
        "SALAD_API_URL": salad.url,
        "SALAD_API_KEY": salad.own_key,
        "SALAD_JWKS_URL": f"{salad.url}/jwks.json",
    }


@pytest.fixture(scope="session")
def stack(server_url: str, salad: Salad, http: requests.Session) -> Iterator[Stack]:
    """All defaults, but for webhooks to this machine."""
    settings = {**salad_settings(salad), "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true"}
    with own_database(server_url) as url, running(url, settings, http) as stack:
        yield stack


@pytest.fixture(scope="session")
def other_stack(server_url: str, salad: Salad, http: requests.Session) -> Iterator[Stack]:
    """Where the defaults are changed, for what only shows there; also for what empties whole tables."""
    settings = {
        **salad_settings(salad),
        "KELPIE_CORS_ORIGINS": "https://console.example",
        "KELPIE_JWT_CAN_SUBMIT": "true",
        "KELPIE_JWT_STRICT": "false",
        "KELPIE_MAX_WAITERS": "2",
        "KELPIE_SALAD_KEY_TTL_S": "1",
        "KELPIE_SALAD_KEY_REFUSED_TTL_S": "1",
    }
    with own_database(server_url) as url, running(url, settings, http) as stack:
        yield stack


@pytest.fixture
def user(stack: Stack) -> User:
    return stack.new_user()


@pytest.fixture
def api(user: User) -> Api:
    """A caller with a user of its own, and a group that only its jobs are in."""
    return user.api()


@pytest.fixture
def stranger(stack: Stack) -> Api:
    return stack.new_api()


@pytest.fixture
def admin(stack: Stack) -> Api:
    return stack.admin


@pytest.fixture
def nobody(stack: Stack) -> Api:
    """Without any credential."""
    return stack.caller({})
