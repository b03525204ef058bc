"""File events: what they cost when a watch has ended."""

from __future__ import annotations

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from kelpie_worker.checkpoints.file_events import FileEvents
from local_stack.processes import wait_for


def inotify_descriptors() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += "inotify" in str(descriptor.readlink())
    return found


def test_directories_renamed_while_they_are_watched_leave_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A system has few descriptors of this kind for each user, and a worker may watch for weeks."""
    before = inotify_descriptors(), threading.active_count()
    for number in range(6):
        watched = tmp_path / str(number)
        watched.mkdir()
        file_events = FileEvents()
        file_events.listen(str(watched))
        for _ in range(10):
            (watched / "step" / "deep").mkdir(parents=True)
            (watched / "step" / "deep" / "file").touch()
            (watched / "step").rename(watched / "old")
            shutil.rmtree(watched / "old")
        file_events.stop()
    wait_for(lambda: (inotify_descriptors(), threading.active_count()) == before, "the end of its threads")
    assert capfd.readouterr().err == ""
