"""KELPIE_ORGANIZATIONS: which organizations at Salad may call (docs/operating.md, Settings)."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from kelpie_api.db import Database
from tests.doubles.salad import SaladDouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import Client, refused, with_salad_key, with_token


@pytest.fixture
def settings(salad: SaladDouble, tokens: TokenDouble) -> dict[str, Any]:
    return {"salad_api_url": salad.api_url, "salad_jwks_url": tokens.jwks_url, "organizations": ("umbrella",)}


def test_another_organizations_key_is_refused_before_salad_is_asked_and_makes_no_user(
    app: Flask, db: Database, salad: SaladDouble
) -> None:
    salad.allow("salad-key", "acme", "default")
    sentence = refused(with_salad_key(app).get("/jobs"), 403)["message"]
    assert "acme" in sentence and "KELPIE_ORGANIZATIONS" in sentence
    assert not salad.asked
    assert db.all("select from users where username = 'acme'") == []


def test_a_named_organizations_key_is_served(app: Flask, salad: SaladDouble) -> None:
    salad.allow("salad-key", "umbrella", "default")
    assert with_salad_key(app, organization="umbrella").get("/jobs").status_code == 200


def test_another_organizations_token_is_refused(app: Flask, db: Database, tokens: TokenDouble) -> None:
    refused(with_token(app, tokens.token()).get("/users/me"), 403)
    assert db.all("select from users where username = 'acme'") == []


def test_a_key_that_the_administrator_made_is_served_whatever_its_organization(api: Client) -> None:
    assert api.get("/jobs").status_code == 200
