"""One bucket server and, for each file, one worker of each kind that takes job after job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_stack.s3 import S3Server
from tests.contract_worker.server import ScriptedCoordinator
from tests.doubles.coordinator import EXTENSIONS
from tests.real_worker import Worker


class Pair:
    """A worker and the coordinator that it works for."""

    def __init__(self, folder: Path, storage: S3Server, extensions: str) -> None:
        self.api = ScriptedCoordinator(extensions)
        self.worker = Worker(folder, self.api.url, storage.environment)

    def close(self) -> None:
        self.worker.close()
        self.api.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Pair]:
    """At the original API, which announces nothing."""
    pair = Pair(tmp_path_factory.mktemp("original") / "worker", s3, "")
    pair.worker.start(MAX_JOB_FAILURES="0")
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Pair]:
    """At this project's API, but with short polls."""
    pair = Pair(tmp_path_factory.mktemp("own") / "worker", s3, EXTENSIONS)
    pair.worker.start(MAX_JOB_FAILURES="0")
    yield pair
    pair.close()


@pytest.fixture
def make_pair(tmp_path: Path, s3: S3Server) -> Iterator[Callable[..., Pair]]:
    """Pairs of a test's own, not started; an empty list of extensions is the original."""
    made: list[Pair] = []

    def make(extensions: str = EXTENSIONS) -> Pair:
        made.append(Pair(tmp_path / f"pair-{len(made)}" / "worker", s3, extensions))
        return made[-1]

    yield make
    for pair in made:
        pair.close()
