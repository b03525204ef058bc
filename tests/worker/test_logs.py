"""What the log says, and what it never says."""

from __future__ import annotations

import json

import pytest

from kelpie_worker import config, logs

SETTINGS = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}


def test_no_log_line_holds_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(config.load(SETTINGS | {"KELPIE_API_KEY": "canary"}))
    logs.info("something", detail="the key is canary")
    line = json.loads(capfd.readouterr().err)
    assert line["detail"] == "the key is ***"
