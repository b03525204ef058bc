"""Clients that generators make from /openapi.json submit, list and cancel jobs.

They are the generators that most users take: openapi-generator (Java) and openapi-python-client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kelpie_api.routes.docs import DOCUMENT
from local_stack.processes import scratch_folder
from local_stack.stack import LocalStack
from tests.conftest import own_database

pytestmark = pytest.mark.timeout(300)

PROGRAMS = Path(sys.executable).parent  # where pip puts commands

WITH_OPENAPI_GENERATOR = """
import sys
from generated import ApiClient, Configuration, JobDefinition, JobsApi

url, key = sys.argv[1:]
jobs = JobsApi(ApiClient(Configuration(host=url, api_key={"X-Kelpie-Key": key})))
block = {"bucket": "b", "prefix": "p", "local_path": "state", "direction": "upload"}
wanted = {"command": "sleep", "arguments": ["1"], "container_group_id": "generated", "sync": {"during": [block]}}
job = jobs.submit_job(job_definition=JobDefinition.from_dict(wanted))
assert job.sync.during[0].prefix == "p/"
page = jobs.list_jobs(container_group_id="generated", status="pending")
assert [listed.id for listed in page.jobs] == [job.id]
assert jobs.cancel_job(job_id=job.id).message == "Job canceled"
assert jobs.get_job(job_id=job.id).status == "canceled"
"""

WITH_OPENAPI_PYTHON_CLIENT = """
import sys
from generated.api.jobs import cancel_job, get_job, list_jobs, submit_job
from generated.client import AuthenticatedClient
from generated.models import JobDefinition, ListJobsStatus

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, prefix="", auth_header_name="X-Kelpie-Key")
block = {"bucket": "b", "prefix": "p", "local_path": "state", "direction": "upload"}
wanted = {"command": "sleep", "arguments": ["1"], "container_group_id": "generated", "sync": {"during": [block]}}
job = submit_job.sync(client=client, body=JobDefinition.from_dict(wanted))
assert job.sync.during[0].prefix == "p/"
page = list_jobs.sync(client=client, container_group_id="generated", status=ListJobsStatus.PENDING)
assert [listed.id for listed in page.jobs] == [job.id]
assert cancel_job.sync(job.id, client=client).message == "Job canceled"
assert get_job.sync(job.id, client=client).status == "canceled"
"""


@pytest.fixture(scope="module")
def stack(server_url: str) -> Iterator[LocalStack]:
    with own_database(server_url) as url, scratch_folder() as root, LocalStack(root, database_url=url) as stack:
        yield stack


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(DOCUMENT.text())
    return path


# A generator that runs for a few seconds is done before Java's better compiler has earned what it costs.
FOR_A_SHORT_RUN = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


def run(*command: object, cwd: Path) -> None:
    """Run a command; if it fails the error shows what it printed."""
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **FOR_A_SHORT_RUN},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def use(client: Path, program: str, stack: LocalStack) -> None:
    """Run a program beside a generated package with the API's address and a key."""
    run(sys.executable, "-c", program, stack.api_url, stack.user_key, cwd=client)


def test_openapi_generator_makes_a_client_that_works(document: Path, tmp_path: Path, stack: LocalStack) -> None:
    made = tmp_path / "made"
    options = "packageName=generated,generateSourceCodeOnly=true"
    run(
        *(PROGRAMS / "openapi-generator-cli", "generate", "-g", "python", "-i", document, "-o", made),
        *("--additional-properties", options, "--global-property", "apiTests=false,modelTests=false"),
        cwd=tmp_path,
    )
    use(made, WITH_OPENAPI_GENERATOR, stack)


def test_openapi_python_client_makes_a_client_that_works(
    document: Path, tmp_path: Path, stack: LocalStack
) -> None:
    made, settings = tmp_path / "generated", tmp_path / "settings.json"
    settings.write_text(json.dumps({"post_hooks": [], "package_name_override": "generated"}))
    run(
        *(PROGRAMS / "openapi-python-client", "generate", "--meta", "none", "--path", document),
        *("--output-path", made, "--config", settings, "--fail-on-warning"),
        cwd=tmp_path,
    )
    use(tmp_path, WITH_OPENAPI_PYTHON_CLIENT, stack)
