"""What the environment makes of a worker: who it says it is, how it authorizes itself, what its log holds."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest

from local_stack.processes import wait_for
from tests.contract_worker.conftest import Pair
from tests.doubles.coordinator import Call
from tests.doubles.double import page
from tests.doubles.tokens import TokenDouble
from tests.real_worker import finished, shell

Make = Callable[..., Pair]
NAMELESS = {
    "KELPIE_API_KEY": "", "SALAD_PROJECT_NAME": "default", "SALAD_MACHINE_ID": "", "SALAD_CONTAINER_GROUP_ID": "",
}  # fmt: skip
CREDENTIALS = ("X-Kelpie-Key", "Salad-Api-Key", "Authorization", "Salad-Organization", "Salad-Project")
SALADS = {"SALAD_API_KEY": "salads", "SALAD_ORGANIZATION_NAME": "acme", "SALAD_PROJECT_NAME": "default"}


@pytest.fixture
def tokens() -> Iterator[TokenDouble]:
    double = TokenDouble()
    yield double
    double.end()


def first_claim(pair: Pair, **environment: str) -> Call:
    pair.worker.start(**environment)
    return wait_for(pair.api.claims, "a claim")[0]


def credentials(call: Call) -> dict[str, str]:
    return {name: call.headers[name] for name in CREDENTIALS if name in call.headers}


# --- authorization --------------------------------------------------------------------------------------


def test_a_kelpie_key_wins_over_all_and_goes_alone(make_pair: Make, tokens: TokenDouble) -> None:
    claim = first_claim(make_pair(), SALAD_IMDS_URL=tokens.url, **SALADS)
    assert credentials(claim) == {"X-Kelpie-Key": "a-key-that-nobody-logs"}


def test_a_salad_key_comes_next_with_organization_and_project_and_the_short_names_win(
    make_pair: Make, tokens: TokenDouble
) -> None:
    short = {"SALAD_ORGANIZATION": "umbrella", "SALAD_PROJECT": "other"}
    claim = first_claim(make_pair(), KELPIE_API_KEY="", SALAD_IMDS_URL=tokens.url, **SALADS, **short)
    assert credentials(claim) == {
        "Salad-Api-Key": "salads", "Salad-Organization": "umbrella", "Salad-Project": "other",
    }  # fmt: skip


# --- who and where --------------------------------------------------------------------------------------


def test_machine_and_group_come_from_the_token_where_the_variables_are_absent(
    make_pair: Make, tokens: TokenDouble
) -> None:
    pair = make_pair("attempt")
    job = pair.api.submit(command="true", sync={})
    claim = first_claim(pair, SALAD_IMDS_URL=tokens.url, **NAMELESS)
    named = {"machine_id": tokens.machine, "container_group_id": tokens.workload}
    assert claim.query.items() >= named.items()
    assert finished(pair.api, job)[1].items() >= named.items()
    assert pair.worker.wait_for("worker_started")["machine_id"] == tokens.machine


def test_what_the_variables_name_wins_over_the_token(make_pair: Make, tokens: TokenDouble) -> None:
    variables = NAMELESS | {"SALAD_MACHINE_ID": "mine", "SALAD_CONTAINER_GROUP_ID": "ours"}
    claim = first_claim(make_pair(), SALAD_IMDS_URL=tokens.url, **variables)
    assert (claim.query["machine_id"], claim.query["container_group_id"]) == ("mine", "ours")


def test_a_worker_that_waits_for_its_name_starts_with_the_metadata_service_and_ends_by_sigterm(
    make_pair: Make, tokens: TokenDouble
) -> None:
    pair = make_pair()
    tokens.instead = page(502)
    pair.worker.start(SALAD_IMDS_URL=tokens.url, **NAMELESS)
    pair.worker.wait_for("token_not_fetched")
    pair.worker.signal(signal.SIGTERM)
    assert pair.worker.wait() == 0
    assert pair.api.calls == []
    pair.worker.start(SALAD_IMDS_URL=tokens.url, **NAMELESS)
    pair.worker.wait_for("token_not_fetched", count=2)
    tokens.instead = None
    assert wait_for(pair.api.claims, "a claim")[0].query["machine_id"] == tokens.machine


def test_a_token_that_names_no_group_does_not_replace_the_variable(make_pair: Make, tokens: TokenDouble) -> None:
    pair = make_pair()
    tokens.workload = ""
    pair.worker.start(SALAD_IMDS_URL=tokens.url, **NAMELESS)
    assert pair.worker.wait() == 2
    assert "SALAD_CONTAINER_GROUP_ID" in pair.worker.lines[-1]


# --- the log --------------------------------------------------------------------------------------------

LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"]


@pytest.mark.parametrize("level", LEVELS)
def test_a_log_holds_nothing_below_its_level(make_pair: Make, level: str) -> None:
    """A job that runs tells at info, one that cannot be wiped away at warn."""
    pair = make_pair()
    job = pair.api.submit(command="true", sync={"after": [{"bucket": "b", "prefix": "", "local_path": "."}]})
    next_job = pair.api.submit(**shell("echo printed >&2"), sync={})
    pair.worker.start(KELPIE_LOG_LEVEL=level, SALAD_MACHINE_ID="", SALAD_IMDS_URL="")
    finished(pair.api, job)
    finished(pair.api, next_job)
    wait_for(lambda: "printed" in pair.worker.lines, "what the command prints")
    told = {event["level"] for event in pair.worker.events}
    assert told <= set(LEVELS[LEVELS.index(level) :])
    assert ("info" in told, "warn" in told) == (LEVELS.index(level) <= 2, LEVELS.index(level) <= 3)
    assert all(json.loads(line) for line in pair.worker.lines if line != "printed")
