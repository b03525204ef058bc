"""The benches run at a size that takes seconds. Times are not judged here; what must hold at any size is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("bench", "options", "printed"),
    [
        ("fill", ["--random-ids"], "2,000 pending and 2,000 finished jobs"),
        ("claim", [], "rows locked by a claim: 1"),
        ("sustained", [], "nothing handed out twice"),
        ("api", [], "| heartbeat | 0.40 |"),
        ("waiting", [], "submissions reached a poller"),
        ("scaling", [], "200 rules decided: 200"),
        ("turnaround", [], "without files: idle for"),
        ("torn", [], "fixed names: said to be clean of what is torn or missing: 0"),
        ("idle", [], "at work:"),
        ("sync", ["--tools", "rclone"], "one file of 20 MiB:"),
        ("contents", [], "a look at"),
        ("growing", [], "large, storage copies parts:"),
    ],
    ids=[
        "fill",
        "claim",
        "sustained",
        "api",
        "waiting",
        "scaling",
        "turnaround",
        "torn",
        "idle",
        "sync",
        "contents",
        "growing",
    ],
)
def test_a_small_run_works(server_url: str, bench: str, options: list[str], printed: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"bench.{bench}", "--small", *options],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": server_url},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert printed in ran.stdout
    assert "MISSED" not in ran.stdout
