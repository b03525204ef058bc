"""Which files a directory has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kelpie_worker.system import atomic
from kelpie_worker.workspace import before_command, scan
from kelpie_worker.workspace.directories import own_files
from kelpie_worker.workspace.own_files import forget_unlinked, keep_linked
from kelpie_worker.workspace.scan import Scanner


def test_a_scan_finds_files_at_any_depth_and_nothing_that_is_none(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep/er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c", ".kelpie-0123456789abcdef~part", "state"):
        (root / name).touch()
    (tmp_path / "outside").touch()
    (root / "out-link").symlink_to(tmp_path / "outside")
    (root / "in-link").symlink_to("a")
    (root / "loop").symlink_to(root)
    (root / "dangling").symlink_to("nowhere")
    (root / "latest").symlink_to("deep")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).touch()
    (root / "d" / ("e" * 200)).mkdir(parents=True)
    found = Scanner(str(root), lambda name: True, frozenset({str(root / "state")})).scan()
    assert sorted(found) == ["a", "deep/b", "deep/er/c", "in-link", "latest/b", "latest/er/c"]


def test_a_scan_ends_where_all_folders_have_links_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_MOST_LINKED", 10)
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        for other in "abcdefgh":
            (tmp_path / name / f"to-{other}").symlink_to(f"../{other}")
    scanner = Scanner(str(tmp_path), lambda name: True, frozenset())
    found = scanner.scan()
    assert {f"{name}/file" for name in "abcdefgh"} | {"a/to-b/file", "h/to-g/file"} <= found.keys()
    assert len(found) == 8 + 8 * 7 + 10 and len(scanner.skipped) == 1
    assert scanner.scan() == found


def test_what_a_link_leads_to_is_found_unless_it_is_kelpies_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for name in ("deep/state", "deep/file", ".kelpie-0123456789abcdef~places"):
        (root / name).touch()
    (root / "file").symlink_to("deep/file")
    (root / "state-link").symlink_to("deep/state")
    (root / "places-link").symlink_to(".kelpie-0123456789abcdef~places")
    (root / "link-to-link").symlink_to("state-link")
    scanner = Scanner(str(root), lambda name: True, frozenset({str(root / "deep/state")}))
    assert sorted(scanner.scan()) == ["deep/file", "file"]
    assert scanner.skipped == ["link-to-link", "places-link", "state-link"]


def test_a_hard_link_to_a_file_of_kelpies_own_is_skipped_also_once_that_file_was_replaced(tmp_path: Path) -> None:
    """A link to a file is found by nothing but the file itself."""
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    state = str(tmp_path / "state")
    own = own_files(state)
    record = before_command.file_of(state, "claim")
    for path in (*own, record, tmp_path / "mine"):
        Path(path).write_text("as it was")
    links = [f"deep/{number}" for number in range(len(own) + 1)]
    for link, path in zip(links, (*own, record), strict=True):
        (root / link).hardlink_to(path)
    (root / "mine").hardlink_to(tmp_path / "mine")
    scanner = Scanner(str(root), lambda name: True, own)
    assert list(scanner.scan()) == ["mine"] and scanner.skipped == links

    for path in map(Path, (state, record)):
        for _ in range(2):
            keep_linked(path)
            atomic.write_text(path, "as it is")
    (root / "new").hardlink_to(state)
    assert list(Scanner(str(root), lambda name: True, own).scan()) == ["mine"]

    forget_unlinked(tmp_path)
    assert list(Scanner(str(root), lambda name: True, own).scan()) == ["mine"]
    for link in (*links, "new"):
        (root / link).unlink()
    forget_unlinked(tmp_path)
    assert not list(tmp_path.glob("*~linked"))


def test_a_missing_directory_is_empty(tmp_path: Path) -> None:
    assert Scanner(str(tmp_path / "missing"), lambda name: True, frozenset()).scan() == {}
