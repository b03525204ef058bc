"""What the worker needs around it: a real S3 protocol server, a scripted coordinator, a folder of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_stack.s3 import S3Server
from tests.doubles.coordinator import EXTENSIONS, FakeCoordinator
from tests.doubles.faulty_proxy import FaultyProxy
from tests.real_worker import CHECKOUT, Worker, block

# Run by every Python of the worker before its first line.
IMPATIENCE = """
from kelpie_worker.coordinator import client as coordinator
from kelpie_worker.s3 import client as s3

assert s3._READ_TIMEOUT and coordinator._READ_TIMEOUT
s3._READ_TIMEOUT = coordinator._READ_TIMEOUT = 2
for call in (coordinator.Api._call, coordinator.Api._known_extensions):
    call.__defaults__ = (*call.__defaults__[:-1], 2)
"""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(name)
    return name


@pytest.fixture
def coordinator(request: pytest.FixtureRequest) -> Iterator[FakeCoordinator]:
    """Parametrize it indirectly with the extensions it names; with an empty string it is the original API."""
    fake = FakeCoordinator(getattr(request, "param", EXTENSIONS))
    yield fake
    fake.close()


@pytest.fixture
def make_worker(tmp_path: Path, s3: S3Server, coordinator: FakeCoordinator) -> Iterator[Callable[..., Worker]]:
    """Workers that are not started yet; keyword arguments are environment variables."""
    made: list[Worker] = []

    def make(name: str = "worker", **environment: str) -> Worker:
        worker = Worker(tmp_path / name, coordinator.url, {**s3.environment, **environment})
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[FaultyProxy]:
    """A way to the S3 server that breaks what a test wants broken."""
    proxy = FaultyProxy(s3.url)
    yield proxy
    proxy.close()


@pytest.fixture
def impatient(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker that takes a silence of two seconds for no answer, instead of half a minute."""
    folder = tmp_path / "impatient"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(IMPATIENCE)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{CHECKOUT}"}


@pytest.fixture
def sync(bucket: str) -> dict[str, list[dict[str, Any]]]:
    """Inputs and checkpoint down, checkpoint up while it runs, outputs up after it."""
    return {
        "before": [block(bucket, "in"), block(bucket, "checkpoint")],
        "during": [block(bucket, "checkpoint")],
        "after": [block(bucket, "out")],
    }


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3: S3Server, faulty: FaultyProxy) -> None:
    for name, value in {
        **s3.environment,
        "AWS_ENDPOINT_URL": faulty.url,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
