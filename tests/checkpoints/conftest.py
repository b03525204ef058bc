"""A watched directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.watched import Watched


@pytest.fixture
def watched(aws: None, tmp_path: Path, bucket: str) -> Iterator[Watched]:
    directory = Watched(tmp_path / "checkpoint", bucket)
    yield directory
    directory.lease.cancel()
    directory.transfer.close()
