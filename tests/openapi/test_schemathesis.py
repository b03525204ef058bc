"""A client that knows nothing but /openapi.json finds nothing in the server that is not written there.

It goes through every operation of the document, so a new one needs no line here. What it is told not to ask is in
schemathesis.toml, with the reasons. KELPIE_OPENAPI_EXAMPLES makes it look deeper, KELPIE_OPENAPI_SEED elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests

from local_stack.processes import scratch_folder
from local_stack.stack import LocalStack
from tests.conftest import own_database
from tests.doubles.fleet import KEY, FleetDouble

pytestmark = pytest.mark.timeout(1800)

SETTINGS = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = int(os.environ.get("KELPIE_OPENAPI_EXAMPLES", "20"))
SEED = os.environ.get("KELPIE_OPENAPI_SEED", "1")

# What only the administrator may do; some of it removes what the other run needs.
ADMINISTRATIVE = {
    "purge_jobs",
    "list_users",
    "delete_users",
    "delete_user",
    "create_user",
    "create_token",
    "delete_rules",
}
# It needs the id of a webhook, which only a claimed job with a receiver has; test_webhooks_log.py does it.
OUT_OF_REACH = {"redeliver_webhook"}
# What only the holder of a job may say; chance does not make one.
HOLDERS = {"keep_checkpoint", "get_checkpoint", "keep_output", "resumed"}
# What is asked of a job that has ended, and of one that runs: chance seldom finds one of either kind.
AGAIN = {"rerun_job"}
STEERED = {"hold_job", "interrupt_job", "lift_ban", "lift_bans"}
GROUP = "97f504e8-6de6-4322-b5d5-1777a59a7ad3"  # the example of the document


@dataclass
class Site:
    stack: LocalStack
    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.stack.api_url}/openapi.json", timeout=10).json()
        return found

    def holder(self) -> dict[str, str | int]:
        """The holder of a job that was just claimed, by the names of a request's parts in the settings."""
        holder = {"machine_id": f"holder-{uuid4()}", "container_group_id": f"held-{uuid4()}"}
        session = requests.Session()
        session.headers["X-Kelpie-Key"] = self.stack.user_key
        job = {"command": "sleep", "container_group_id": holder["container_group_id"], "heartbeat_interval": 600}
        session.post(f"{self.stack.api_url}/jobs", json=job, timeout=10).raise_for_status()
        claim = holder | {"speaks": "steer"}
        [claimed] = session.get(f"{self.stack.api_url}/work", params=claim, timeout=10).json()
        said = {**holder, "attempt": claimed["attempt"]}
        asked = {f"{part}.{name}": value for part in ("body", "query") for name, value in said.items()}
        return {"path.job_id": claimed["id"], **asked}

    def running(self) -> dict[str, str | int]:
        """A job that was just claimed."""
        return {"path.job_id": self.holder()["path.job_id"]}

    def ended(self) -> dict[str, str | int]:
        """A job that was canceled."""
        session = requests.Session()
        session.headers["X-Kelpie-Key"] = self.stack.user_key
        definition = {"command": "sleep", "container_group_id": "ended"}
        answer = session.post(f"{self.stack.api_url}/jobs", json=definition, timeout=10)
        assert answer.ok, answer.text
        job = answer.json()
        session.delete(f"{self.stack.api_url}/jobs/{job['id']}", timeout=10).raise_for_status()
        return {"path.job_id": job["id"]}

    def operations(self) -> dict[str, str]:
        """The id of each operation and how the report calls it."""
        return {
            operation["operationId"]: f"{method.upper()} {path}"
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            if method != "parameters"
        }


@pytest.fixture(scope="module")
def site(server_url: str) -> Iterator[Site]:
    """A server of its own: two web processes, a real database, and a Salad with one container group."""
    salad = FleetDouble()
    salad.add_group("local-organization", "local-project", GROUP)
    settings = {"SALAD_API_URL": salad.api_url, "SALAD_API_KEY": KEY}
    with (
        own_database(server_url) as url,
        scratch_folder() as root,
        LocalStack(root, database_url=url, settings=settings) as stack,
    ):
        yield Site(stack, root)
    salad.end()


@dataclass
class Run:
    exit_code: int
    text: str
    report: dict[str, Any]

    def accepted(self, operation: str) -> int:
        """How often an operation was answered with a success."""
        rates = self.report["valid_rates"].get(operation, {})
        return sum(phase["accepted"] for phase in rates.values())


def schemathesis(
    site: Site, document: str, key: str, *options: str, examples: int = EXAMPLES, settings: Path = SETTINGS
) -> Run:
    report = site.folder / "report.json"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", document),
            *("--url", site.stack.api_url, "--header", f"X-Kelpie-Key: {key}"),
            # A Salad key or a token that is made up must be refused as such, not for want of these.
            *("--header", "Salad-Organization: local-organization", "--header", "Salad-Project: local-project"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--seed", SEED, "--max-examples", str(examples)),
            *("--continue-on-failure", "--no-color", "--report", "json", "--report-json-path", str(report)),
            *options,
        ],
        cwd=site.folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert report.exists(), ran.stdout + ran.stderr
    return Run(ran.returncode, ran.stdout + ran.stderr, json.loads(report.read_text()))


def chosen(operations: set[str]) -> list[str]:
    return [option for name in sorted(operations) for option in ("--include-operation-id", name)]


def test_the_server_does_what_its_document_says(site: Site) -> None:
    run = schemathesis(site, f"{site.stack.api_url}/openapi.json", site.stack.user_key)
    assert run.exit_code == 0, run.text
    operations = site.operations()
    assert run.report["operations"]["tested"] == len(operations)
    missed = operations.keys() - ADMINISTRATIVE - OUT_OF_REACH - HOLDERS - STEERED - AGAIN - {"failed"}
    assert not (never := [name for name in missed if not run.accepted(operations[name])]), " ".join(never)


def test_what_is_said_of_one_job_is_as_documented(site: Site) -> None:
    """Of a job of its own by its holder, as a failure, which ends it, by its user, and again: in one run."""
    said = [
        (HOLDERS, site.holder()),
        ({"failed"}, site.holder()),
        (STEERED, site.running()),
        (AGAIN, site.ended()),
    ]
    settings = site.folder / "one-job.toml"
    settings.write_text(SETTINGS.read_text() + "".join(as_said_by(values, names) for names, values in said))
    document = f"{site.stack.api_url}/openapi.json"
    every = {name for names, _ in said for name in names}
    options = [*chosen(every), "--phases", "coverage,fuzzing"]  # nothing follows from them
    run = schemathesis(site, document, site.stack.user_key, *options, settings=settings)
    assert run.exit_code == 0, run.text
    operations = site.operations()
    assert not (never := [name for name in every if not run.accepted(operations[name])]), " ".join(never)


def as_said_by(holder: dict[str, str | int], names: set[str]) -> str:
    """Settings that make each of these requests one of the holder's."""
    values = ", ".join(f'"{name}" = {json.dumps(value)}' for name, value in holder.items())
    return f"\n[[operations]]\ninclude-operation-id = {json.dumps(sorted(names))}\nparameters = {{ {values} }}\n"


def wrong_shape(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["User"]["properties"]["username"]["type"] = "integer"


def missing_key(document: dict[str, Any]) -> None:
    secret = document["components"]["schemas"]["SigningSecret"]
    secret["properties"]["age"] = {"type": "integer"}
    secret.setdefault("required", []).append("age")


def wrong_status(document: dict[str, Any]) -> None:
    responses = document["paths"]["/readyz"]["get"]["responses"]
    responses["204"] = responses.pop("200")


def unkept_limit(document: dict[str, Any]) -> None:
    """Of one parameter alone, so that chance finds a number that is refused."""
    listing = document["paths"]["/jobs"]["get"]
    listing["parameters"] = [each for each in listing["parameters"] if each["name"] == "page_size"]
    listing["parameters"][0]["schema"].pop("maximum")


# Operations, and what a document says of each that is not so.
LIES = {
    "get_me": wrong_shape,
    "get_signing_secret": missing_key,
    "readyz": wrong_status,
    "list_jobs": unkept_limit,
}


def test_every_difference_of_a_document_from_the_service_is_noticed(site: Site) -> None:
    document = site.document
    for lie in LIES.values():
        lie(document)
    lying = site.folder / "lying.json"
    lying.write_text(json.dumps(document))
    run = schemathesis(site, str(lying), site.stack.user_key, *chosen(set(LIES)), examples=100)
    assert run.exit_code == 1, run.text
    operations = site.operations()
    noticed = {operation for failure in run.report["failures"] for operation in failure["operations"]}
    assert {name: operations[name] in noticed for name in LIES} == dict.fromkeys(LIES, True), run.text


def test_what_the_administrator_may_do_is_as_documented(site: Site) -> None:
    """First what makes something, then what removes it; after all other tests, for then their key is gone."""
    operations = site.operations()
    document = f"{site.stack.api_url}/openapi.json"
    for names, phases in (
        (ADMINISTRATIVE - {"delete_users"}, "coverage,fuzzing,stateful"),
        ({"delete_users"}, "coverage,fuzzing"),  # nothing follows from it
    ):
        options = [*chosen(names), "--phases", phases]
        run = schemathesis(site, document, site.stack.admin_key, *options, examples=EXAMPLES // 2)
        assert run.exit_code == 0, run.text
        for name in names:
            assert run.accepted(operations[name]), f"{operations[name]} never succeeded, so little of it was tried"
