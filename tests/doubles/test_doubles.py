"""The stand-ins for Salad's services are held to what Salad publishes; one that drifts fails its test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kelpie_api.net.http import get
from kelpie_api.salad.client import Salad
from tests.doubles.double import Double
from tests.doubles.salad import SaladDouble
from tests.doubles.tokens import TokenDouble

CONTAINERS = "/api/public/organizations/acme/projects/default/containers"


def ask(path: str, **headers: str) -> Callable[[Double], object]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda double: get(double.url + path, named, 5)


def lacking_a_field(salad: Double) -> None:
    assert isinstance(salad, SaladDouble)
    salad.allow("key", "acme", "default")
    salad.add_group("acme", "default")
    del salad.groups["acme", "default"][0]["replicas"]
    ask(CONTAINERS, Salad_Api_Key="key")(salad)


def of_a_wrong_type(salad: Double) -> None:
    assert isinstance(salad, SaladDouble)
    salad.allow("key", "acme", "default")
    salad.add_group("acme", "default", replicas="many")
    ask(CONTAINERS, Salad_Api_Key="key")(salad)


def too_long_a_token(tokens: Double) -> None:
    assert isinstance(tokens, TokenDouble)
    tokens.organization = "x" * 2000
    ask("/v1/token", Metadata="true")(tokens)


DRIFTS = {
    "no key": (SaladDouble, ask(CONTAINERS)),
    "a path that is not there": (SaladDouble, ask("/api/public/organizations/acme/nothing", Salad_Api_Key="key")),
    "a name that is none": (SaladDouble, ask(CONTAINERS.replace("acme", "ACME"), Salad_Api_Key="key")),
    "an answer without a field": (SaladDouble, lacking_a_field),
    "an answer of a wrong type": (SaladDouble, of_a_wrong_type),
    "no Metadata header": (TokenDouble, ask("/v1/token")),
    "another Metadata header": (TokenDouble, ask("/v1/token", Metadata="false")),
    "an answer that is too long": (TokenDouble, too_long_a_token),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_is_raised_when_the_double_ends(drift: str) -> None:
    kind, leave = DRIFTS[drift]
    double = kind()
    leave(double)
    with pytest.raises(AssertionError, match="left its specification"):
        double.end()


def test_our_client_and_the_double_keep_to_it() -> None:
    double = SaladDouble()
    double.allow("key", "acme", "default")
    group = double.add_group("acme", "default")
    assert [found["id"] for found in Salad(double.api_url).container_groups("key", "acme", "default")] == [group]
    double.end()


def test_the_token_service_issues_what_its_specification_allows() -> None:
    double = TokenDouble()
    assert get(double.url + "/v1/token", {"Metadata": "true"}, 5).json["jwt"].count(".") == 2
    double.end()
