"""What a request costs in statements, counted on the wire between libpq and the server."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from kelpie_api.db import Database
from tests.doubles.salad import SaladDouble
from tests.doubles.tokens import TokenDouble
from tests.helpers import Client, Tenant, definition, make_job, with_salad_key, with_token

SENT = re.compile(r"\tF\t\d+\t(?:Parse|Query)\t(.*)")


@pytest.fixture
def settings(salad: SaladDouble, tokens: TokenDouble) -> dict[str, Any]:
    return {"salad_api_url": salad.api_url, "salad_jwks_url": tokens.jwks_url, "salad_api_key": "own-key"}


@pytest.fixture
def pool_of_app() -> None:
    """Connections of its own."""


@pytest.fixture
def quiet_api(app: Flask, tenant: Tenant) -> Client:
    """A client of a process without housekeeping and with one connection, whose key is known already."""
    parts = app.extensions["kelpie"]
    parts.db.pool.resize(1, 1)
    parts.db.open()
    parts.begun_in = os.getpid()
    client = Client(app.test_client(), tenant.key)
    assert client.get("/jobs").status_code == 200
    return client


def statements_of(client: Client, request: Callable[[], object]) -> list[str]:
    """The statements that a request sends, BEGIN and COMMIT among them."""
    pool = client.http.application.extensions["kelpie"].db.pool
    with tempfile.TemporaryFile("w+") as trace:
        with pool.connection() as connection:
            connection.pgconn.trace(trace.fileno())
        request()
        with pool.connection() as connection:
            connection.pgconn.untrace()
        trace.seek(0)
        return [found[1] for line in trace if (found := SENT.search(line))]


def test_the_count_sees_every_statement(quiet_api: Client) -> None:
    """A request that sends several, so that the ones below are believed."""
    db: Database = quiet_api.http.application.extensions["kelpie"].db

    def several() -> None:
        with db.transaction() as tx:
            tx.one_or_none("select %(n)s::integer", n=1)
            tx.execute("select 2")

    sent = statements_of(quiet_api, several)
    assert len(sent) == 4
    assert "BEGIN" in sent[0] and "COMMIT" in sent[3]


@pytest.mark.parametrize("kind", ["Salad key", "token"])
def test_a_heartbeat_costs_no_more_for_callers_that_salad_vouches_for(
    quiet_api: Client, db: Database, tenant: Tenant, salad: SaladDouble, tokens: TokenDouble, kind: str
) -> None:
    app = quiet_api.http.application
    salad.allow("salad-key", "acme", "default")
    salad.allow("own-key", "acme", "default")
    tokens.machine, tokens.workload = "m1", "g1"
    client = with_salad_key(app) if kind == "Salad key" else with_token(app, tokens.token())
    job = {"id": make_job(db, tenant, "held")}
    assert client.report(job, "heartbeat", attempt=1).json == {"status": "running"}
    assert len(statements_of(client, lambda: client.report(job, "heartbeat", attempt=1))) == 1


def test_a_heartbeat_costs_one_statement(quiet_api: Client, db: Database, tenant: Tenant) -> None:
    job = {"id": make_job(db, tenant, "held")}
    assert len(statements_of(quiet_api, lambda: quiet_api.report(job, "heartbeat", attempt=1))) == 1


@pytest.mark.parametrize("report", ["completed", "failed", "released"])
def test_a_report_costs_one_statement(quiet_api: Client, db: Database, tenant: Tenant, report: str) -> None:
    job = {"id": make_job(db, tenant, "held", webhook="http://receiver/")}
    assert len(statements_of(quiet_api, lambda: quiet_api.report(job, report, attempt=1))) == 1


def test_a_claim_costs_one_statement_with_work_or_without(quiet_api: Client, db: Database, tenant: Tenant) -> None:
    make_job(db, tenant, webhook="http://receiver/")
    claimed: list[object] = []
    for _ in range(2):
        assert len(statements_of(quiet_api, lambda: claimed.append(quiet_api.claim()))) == 1
    assert claimed[0] and not claimed[1]


def test_a_submission_costs_one_statement(quiet_api: Client) -> None:
    assert len(statements_of(quiet_api, quiet_api.submit)) == 1


def test_a_batch_of_a_thousand_costs_one_statement(quiet_api: Client) -> None:
    def submit() -> None:
        assert quiet_api.post("/jobs/batch", [definition()] * 1000).status_code == 202

    assert len(statements_of(quiet_api, submit)) == 1


def test_an_unknown_key_costs_one_statement_more(quiet_api: Client) -> None:
    stranger = Client(quiet_api.http, "kelpie_unknown")
    assert len(statements_of(quiet_api, lambda: stranger.get("/jobs"))) == 1
