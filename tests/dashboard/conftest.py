"""Browsers that are signed in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from tests.dashboard.browser import Browser, signed_in
from tests.helpers import Tenant, make_tenant

Passes = Callable[[float], None]


@pytest.fixture
def passes(app: Flask) -> Passes:
    """Lets so many seconds pass for the parts of pages that are kept, whose time stands still otherwise."""
    parts = app.extensions["kelpie"].live_parts
    now = parts.clock()

    def let_pass(seconds: float) -> None:
        nonlocal now
        now += seconds

    parts.clock = lambda: now
    return let_pass


@pytest.fixture
def browser(app: Flask) -> Browser:
    """Not signed in."""
    return Browser(app.test_client())


@pytest.fixture
def operator(app: Flask, tenant: Tenant) -> Browser:
    return signed_in(app, tenant)


@pytest.fixture
def viewer(app: Flask, db: Database, tenant: Tenant) -> Browser:
    key = users.create_token(db, tenant.caller.user_id, "acme", "default", Role.VIEWER)
    return signed_in(app, Tenant(tenant.caller, key))


@pytest.fixture
def rival(app: Flask, db: Database) -> Browser:
    """Of another tenant."""
    return signed_in(app, make_tenant(db, "rival", "default"))
