"""Has a rehearsed command wait for facts: a pause of it ends when all that it saved is in the bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

# A Python imports `sitecustomize` before its program. Objects are known by their ETags, which are digests.
# What was there at the beginning is not read, for a rehearsal takes note of reads.
PACE = """
import os, time
from pathlib import Path

def versions():
    found = [(file, file.stat()) for file in Path("checkpoint").rglob("*") if file.is_file()]
    return {(file, stat.st_ino, stat.st_mtime_ns) for file, stat in found}

def paced(_, sleep=time.sleep, restored=versions()):
    import hashlib, re, urllib.request

    prefix = Path.cwd().name.rpartition("-")[0] + "/checkpoint/"
    bucket = os.environ["AWS_ENDPOINT_URL"] + "/rehearsal?list-type=2&prefix=" + prefix
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(bucket) as answer:
            stored = set(re.findall("[0-9a-f]{32}", answer.read().decode()))
        saved = [hashlib.md5(file.read_bytes()) for file, *_ in versions() - restored]
        if all(stored & {one.hexdigest(), hashlib.md5(one.digest()).hexdigest()} for one in saved):
            return
        sleep(0.1)

if "CHECKPOINT_DIR" in os.environ and "AWS_ENDPOINT_URL" in os.environ:
    time.sleep = paced
"""
SLEEP = """#!/bin/sh
exec python3 -c "import time; time.sleep($1)"
"""


def set_pace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `time.sleep` and the program `sleep` of commands that are rehearsed from now on be such pauses."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PACE)
    (folder / "sleep").write_text(SLEEP)
    (folder / "sleep").chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PATH", str(folder), prepend=":")
