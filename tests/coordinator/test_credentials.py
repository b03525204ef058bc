"""What a worker's calls prove themselves with."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kelpie_worker.config import Authorization, TokenUse
from kelpie_worker.coordinator.credentials import Credentials, NoToken, life_of, organization_of
from kelpie_worker.salad.imds import ImdsUnavailable


def token(claims: Any) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (token({"iat": 100, "exp": 400}), 300),
        (token({"iat": 100, "exp": 110}), 10),
        (token({"iat": 100, "exp": 1e12}), 86_400),
        (token({"exp": 400}), 300),
        (token({"iat": 400, "exp": 100}), 300),
        (token({"iat": "1", "exp": []}), 300),
        (token([1]), 300),
        ("no token", 300),
        ("a.!!.b", 300),
        ("", 300),
    ],
)
def test_how_long_a_token_lives_by_its_issuers_clock(text: str, seconds: float) -> None:
    assert life_of(text) == seconds


@pytest.mark.parametrize("name", [None, "", 5, "a\nb", "ü"])
def test_an_organization_that_no_header_can_carry_is_none(name: Any) -> None:
    with pytest.raises(ImdsUnavailable, match="SALAD_ORGANIZATION"):
        organization_of(token({"salad_organization_name": name}))


def test_without_a_metadata_service_there_is_no_token() -> None:
    identity = Credentials(Authorization({}, TokenUse.BEARER), None)
    with pytest.raises(NoToken):
        identity.headers(patience=0.01)


def test_a_key_needs_no_metadata_service() -> None:
    assert Credentials(Authorization({"X-Kelpie-Key": "k"}), None).headers() == {"X-Kelpie-Key": "k"}
