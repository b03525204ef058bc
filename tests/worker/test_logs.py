"""What the log says, and what it never says."""

from __future__ import annotations

import json

import pytest

from kelpie_worker import config, logs
from kelpie_worker.worker import warn_of_default_address

SETTINGS = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}


def test_no_log_line_holds_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(config.load(SETTINGS | {"KELPIE_API_KEY": "canary"}))
    logs.info("something", detail="the key is canary")
    line = json.loads(capfd.readouterr().err)
    assert line["detail"] == "the key is ***"


@pytest.mark.parametrize(
    ("api_url", "is_said"),
    [("", True), ("kelpie.saladexamples.com", True), ("https://kelpie.example.com", False)],
)
def test_a_worker_that_asks_the_default_address_says_so_at_once(
    capfd: pytest.CaptureFixture[str], api_url: str, is_said: bool
) -> None:
    settings = config.load(SETTINGS | {"KELPIE_API_URL": api_url})
    logs.configure(settings)
    warn_of_default_address(settings)
    said = capfd.readouterr().err
    assert ("KELPIE_API_URL" in said and "https://kelpie.saladexamples.com" in said) is is_said
