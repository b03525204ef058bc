"""Names of files: the user's, Kelpie's own, and those that fit into a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
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


BOUND = """
import sys
from pathlib import Path
from kelpie_worker.workspace.directories import own_files, why_not_to_wipe
from kelpie_worker.workspace.paths import is_kelpies, places_of
from kelpie_worker.workspace.scan import Scanner
from kelpie_worker.workspace.tree import copy_contents
state, other = sys.argv[1:]
own = own_files(state)
print(is_kelpies(f"{other}/state.json", other, places_of(own)), is_kelpies(f"{other}/mine", other, places_of(own)))
print(*Scanner(other, lambda name: True, own).scan())
Path("copy").mkdir()
copy_contents(other, "copy", places_of(own))
print(*sorted(path.name for path in Path("copy").iterdir()))
for directory in (other, str(Path(other).parent), f"{other}/deep"):
    print(why_not_to_wipe(directory, state))
"""


def test_kelpies_own_files_are_known_under_every_path_of_their_folder(tmp_path: Path) -> None:
    """A bind mount has no link that could be resolved."""
    folder, other = tmp_path / "folder", tmp_path / "a job" / "other"
    (folder / "deep").mkdir(parents=True)
    other.mkdir(parents=True)
    for name in ("state.json", "state.json.lock", "mine"):
        (folder / name).touch()
    arguments = f"-c '{BOUND}' {folder}/state.json '{other}'"
    bind = f"mount --bind {folder} '{other}' && exec {sys.executable} {arguments}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", bind],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "True False",
        "mine",
        "deep mine",
        "it is or holds the state file",
        "it is or holds the state file",
        "None",
    ]
