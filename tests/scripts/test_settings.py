"""Every program of the coordinator names all of its settings that are missing or wrong before it begins."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from kelpie_api.commands import server

PROGRAMS = {
    "migrate": [],
    "serve": [],
    "webhooks": [],
    "autoscale": [],
    "prune": ["--older-than", "30d"],
    "admin": ["list-users"],
}
SECRET_KEY = "KELPIE_SECRET_KEY is not set: it must hold a random string of 32 characters or more."
ALSO = {
    "serve": [SECRET_KEY],
    "webhooks": [SECRET_KEY],
    "autoscale": [
        SECRET_KEY,
        "SALAD_API_KEY is not set: it must hold the coordinator's own key at Salad, which scaling rules and",
    ],
}


def test_every_program_is_here() -> None:
    assert {*PROGRAMS, "settings"} == set(server.COMMANDS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_that_is_missing_or_wrong_is_named_at_once(program: str) -> None:
    names = ("DATABASE_URL", "KELPIE_SECRET_KEY", "SALAD_API_KEY")
    env = dict.fromkeys(names, "") | {"KELPIE_LOG_LEVEL": "loud"}
    ran = CliRunner().invoke(server.command(program), PROGRAMS[program], env=env)
    assert ran.exit_code == 1
    for sentence in (
        "DATABASE_URL is not set",
        "KELPIE_LOG_LEVEL must be one of trace, debug, info, warn, error, fatal, silent, not 'loud'.",
        *ALSO.get(program, []),
    ):
        assert sentence in ran.output
