"""Values of a secret and of a sealed environment, looked for in all that leaves the coordinator or is kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from flask import Flask

from kelpie_api import logs
from kelpie_api.db import Database
from kelpie_api.encryption import Seal
from kelpie_api.sealed import environments
from kelpie_api.webhooks.sender import Sender
from local_stack.postgres import wheel_folder
from tests.conftest import SECRET_KEY
from tests.doubles.receiver import Receiver, send_round
from tests.helpers import Client, refused

IN_A_SECRET, IN_AN_ENVIRONMENT = "canary-in-a-secret", "canary-in-an-environment"


def dump(url: str) -> str:
    """What pg_dump writes of the database. Skips the test where there is none of the server's version."""
    programs = sorted(Path(wheel_folder()).glob("pginstall*/bin/pg_dump"), reverse=True)
    for program in programs:
        done = subprocess.run([program, "--inserts", url], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
    pytest.skip("no pg_dump that fits the server")


def test_they_are_nowhere_but_where_they_belong(
    app: Flask,
    api: Client,
    db: Database,
    migrated_url: str,
    receiver: Receiver,
    sender: Sender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    environments.seal_all(db, Seal(SECRET_KEY), lambda seconds: None)
    assert api.call("PUT", "/secrets/LICENCE", {"value": IN_A_SECRET}).status_code == 200
    naming = {"secrets": ["LICENCE"], "environment": {"DATASET": IN_AN_ENVIRONMENT}, "webhook": receiver.url}
    job = api.submit(**naming)
    handed = api.claim()
    assert handed and handed["environment"] == {"LICENCE": IN_A_SECRET, "DATASET": IN_AN_ENVIRONMENT}
    assert send_round(sender) == 1
    assert api.report(job, "failed", attempt=1, exit_code=1, reason="exit_code", output="***").status_code == 202
    refused(api.post("/jobs", {"command": "x", "container_group_id": "g1", "secrets": ["GONE"]}), 400)
    refused(api.delete("/secrets/LICENCE"), 409)

    viewer = Client(app.test_client(), (api.post("/keys", {"name": "v", "role": "viewer"}).json or {})["token"])
    paths = ["/jobs", "/secrets", "/keys", "/machines", "/metrics", "/container-groups/g1/metrics"]
    paths += [f"/jobs/{job['id']}{part}" for part in ("", "/attempts", "/events", "/webhooks")]
    read_by_viewers = "".join(viewer.get(path).text for path in paths)
    read_by_operators = "".join(api.get(path).text for path in paths)
    kept = dump(migrated_url) + "".join(logs.JsonLines().format(record) for record in caplog.records)
    sent = str(receiver.got)
    assert job["id"] in read_by_viewers and job["id"] in kept and job["id"] in sent
    for canary in (IN_A_SECRET, IN_AN_ENVIRONMENT):
        for spelling in (canary, canary.encode().hex()):
            assert spelling not in read_by_viewers + kept + sent
    assert IN_A_SECRET not in read_by_operators and IN_AN_ENVIRONMENT in read_by_operators
