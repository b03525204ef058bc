"""scripts/admin seal: the operator says that no process of the release before is left."""

from __future__ import annotations

import json

import psycopg
import pytest
from flask import Flask
from psycopg.conninfo import make_conninfo

from kelpie_api.db import HOW_TO_CONNECT, Database
from kelpie_api.sealed import environments
from tests.helpers import Tenant, make_job
from tests.scripts.conftest import Run, refused


def test_keeps_sealing_from_beginning_while_it_is_connected(
    run: Run, app: Flask, db: Database, app_url: str
) -> None:
    older = make_conninfo(app_url, application_name="kelpie")
    with psycopg.connect(older):
        assert "Processes of the release before are connected" in refused(run("admin", "seal", "--yes"))
        assert not environments.are_sealed(db)
    assert HOW_TO_CONNECT["application_name"] != "kelpie"


def test_the_operator_says_that_no_older_process_is_left(
    run: Run, app: Flask, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "KNOWN_FOR", -1.0)  # no process is to be waited for
    make_job(db, tenant, environment={"A": "b"})
    assert "no way back" in refused(run("admin", "seal", "--anyway"))
    assert json.loads(run("admin", "seal", "--yes", "--anyway", "--json").stdout) == {"sealed": 1}
    assert "those of 0 stored jobs" in run("admin", "seal").stdout
