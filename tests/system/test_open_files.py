"""Which files may be written to, as /proc shows it."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kelpie_worker.system import open_files
from kelpie_worker.system.open_files import FileId, FilesInUse, files_in_use

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
SIZE = 8192


class Mapping:
    """A shared mapping without a descriptor; Python's own keeps one open."""

    def __init__(self, path: Path, protection: int) -> None:
        descriptor = os.open(path, os.O_RDWR if protection & mmap.PROT_WRITE else os.O_RDONLY)
        self.address = LIBC.mmap(None, SIZE, protection, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
        os.close(descriptor)

    def close(self) -> None:
        LIBC.munmap(ctypes.c_void_p(self.address), SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "with a space\nand a line"
    path.write_bytes(b"0" * SIZE)
    return path


def id_of(path: Path) -> FileId:
    return path.stat().st_dev, path.stat().st_ino


def test_a_file_is_being_written_from_its_opening_to_its_closing(path: Path) -> None:
    with path.open("r+b"):
        assert id_of(path) in files_in_use().written
    with path.open("rb"):
        assert id_of(path) not in files_in_use().written


@pytest.mark.parametrize(
    ("protection", "is_written"), [(mmap.PROT_READ | mmap.PROT_WRITE, True), (mmap.PROT_READ, False)]
)
def test_a_mapped_file_is_in_use_without_being_open_and_under_every_name(
    path: Path, protection: int, is_written: bool
) -> None:
    mapping = Mapping(path, protection)
    moved, other = path.with_name("moved"), path.with_name("other")
    path.rename(moved)
    other.hardlink_to(moved)
    found = files_in_use()
    assert (id_of(other) in found.written, id_of(other) in found.mapped) == (is_written, True)
    mapping.close()
    assert id_of(other) not in files_in_use().mapped


def test_files_of_another_disk_with_the_same_inode_number_are_others(path: Path) -> None:
    with path.open("r+b"):
        found = files_in_use()
    device, inode = id_of(path)
    assert (device, inode) in found.written
    assert (device + 1, inode) not in found.written


def test_a_process_whose_first_thread_has_ended_is_seen(path: Path) -> None:
    program = """
import ctypes, sys, threading
file = open(sys.argv[1], "r+b")
def stay():
    print("ended", flush=True)
    sys.stdin.read()
    import os; os._exit(0)
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdin
    try:
        assert process.stdout.readline() == b"ended\n"
        while not first_thread_has_ended(process.pid):
            threading.Event().wait(0.01)
        assert id_of(path) in files_in_use().written
    finally:
        process.kill()
        process.communicate()


def first_thread_has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}/maps").read_bytes()


def test_all_is_seen_where_only_strangers_are_closed_to_inspection(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert look_without(1, monkeypatch).is_all
        assert not look_without(child.pid, monkeypatch).is_all
        child.kill()


@pytest.mark.parametrize("parent", [0, 1], ids=["hidden", "the first process"])
def test_mappings_are_seen_whatever_process_is_the_parent(
    path: Path, parent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = Mapping(path, mmap.PROT_READ | mmap.PROT_WRITE)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    assert id_of(path) in files_in_use().mapped
    mapping.close()


def look_without(closed: int, monkeypatch: pytest.MonkeyPatch) -> FilesInUse:
    """The files in use, where one process may not be inspected."""
    look: Callable[[str], set[FileId]] = open_files._open_for_writing

    def refuse(folder: str) -> set[FileId]:
        if folder == f"/proc/{closed}":
            raise PermissionError(folder)
        return look(folder)

    with monkeypatch.context() as patched:
        patched.setattr(open_files, "_open_for_writing", refuse)
        return files_in_use()
