"""What a file's times tell of writes to it."""

from __future__ import annotations

import mmap
import tempfile
import time
from pathlib import Path

import pytest

from kelpie_worker.workspace import file_times
from kelpie_worker.workspace.file_times import TICK, flush, flush_reveals_writes, tells_writes
from kelpie_worker.workspace.file_version import Signature, signature_of

FINE = 1_700_000_000_123_456_789
EXT, OVERLAY, NFS = 0xEF53, 0x794C7630, 0x6969


@pytest.mark.parametrize("path", ["/dev/shm", "/proc/self/status", "/nowhere"])
def test_times_do_not_tell_of_every_write_where_no_disk_is(path: str) -> None:
    assert not tells_writes(path, Signature(1, 2, 3, FINE), lambda: True)


@pytest.mark.parametrize(
    ("ctime_ns", "kind", "reveals", "tells"),
    [
        (FINE, EXT, False, True),
        (FINE // 10**9 * 10**9, EXT, False, False),  # whole seconds
        (FINE // 10**7 * 10**7, EXT, False, False),  # hundredths, as of exFAT
        (FINE, OVERLAY, True, True),
        (FINE, OVERLAY, False, False),  # over a tmpfs
        (FINE, NFS, True, False),
    ],
)
def test_only_fine_times_that_the_kernel_keeps_tell_of_every_write(
    ctime_ns: int, kind: int, reveals: bool, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_times, "file_system_of", lambda path: kind)
    assert tells_writes("file", Signature(1, 2, 3, ctime_ns), lambda: reveals) is tells


@pytest.mark.parametrize("place", [None, "/dev/shm"], ids=["disk", "tmpfs"])
def test_whether_a_flush_reveals_writes_is_found_out_in_the_folder_itself(place: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        path = Path(folder, "mapped")
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as page:
            page[0] = 1
            flush(str(path))
            before = signature_of(path.stat())
            time.sleep(2 * TICK)  # the clock of the file system has ticks
            page[0] = 2
            reveals = signature_of(path.stat()) != before
        assert flush_reveals_writes(folder) is reveals
        assert [file.name for file in Path(folder).iterdir()] == ["mapped"]
    assert place is None or not reveals
    assert not flush_reveals_writes("/nowhere")
