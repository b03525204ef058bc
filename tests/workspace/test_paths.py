"""Names of files: the user's, Kelpie's own, and those that fit into a bucket."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from kelpie_worker.lease import Lease
from kelpie_worker.s3.bucket import Storage
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.transfer.file_upload import Transfer
from kelpie_worker.workspace.paths import own_name
from kelpie_worker.workspace.scan import Scanner


@pytest.mark.parametrize(
    "name", [".kelpie-notes", ".kelpie-x.part", ".kelpie-aside-1", ".kelpie-0123456789abcdef"]
)
def test_a_file_of_the_users_may_be_called_nearly_like_kelpies_own(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / own_name("part")).touch()
    assert list(Scanner(str(tmp_path), lambda found: True, frozenset()).scan()) == [name]


def test_a_key_is_measured_in_bytes_with_all_that_belongs_to_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transfer = Transfer(Storage(SharedClient(None), Lease(), max_retries=0), compression=True)
    for name in ("12345", "ä345", "123456", "ää45"):
        (tmp_path / name).touch()
    key_of = partial(transfer.key_in, "p" * 1015 + "/")
    scanner = Scanner(str(tmp_path), lambda name: True, frozenset(), key_of=key_of)
    assert sorted(scanner.scan()) == ["12345", "ä345"]
    assert sorted(scanner.skipped) == ["123456", "ää45"]
    assert "more than 1024 bytes" in capfd.readouterr().err
