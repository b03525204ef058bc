"""One cluster and one stack for these tests; each test has its own queue and its own workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local_stack.processes import scratch_folder
from tests.e2e.conftest import stack  # noqa: F401 - a fixture
from tests.slurm.cluster import Slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    with scratch_folder() as folder, Slurm(folder) as cluster:
        yield cluster
