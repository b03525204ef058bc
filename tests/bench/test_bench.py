"""The benches run at a size that takes seconds. Times are not judged here; what must hold at any size is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness import Goals
from bench.results import Run, document

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("bench", "options", "printed"),
    [
        ("fill", ["--random-ids"], "2,000 pending and 2,000 finished jobs"),
        ("claim", [], "rows locked by a claim: 1"),
        ("claim", ["--parked"], "by a machine banned from 1,000 jobs"),
        ("sustained", [], "nothing handed out twice"),
        ("api", [], "| heartbeat | 0.40 |"),
        ("waiting", [], "submissions reached a poller"),
        ("scaling", [], "200 rules decided: 200"),
        ("turnaround", [], "without files: idle for"),
        ("startup", [], "kelpie ls: "),
        ("torn", [], "fixed names: said to be clean of what is torn or missing: 0"),
        ("idle", [], "at work:"),
        ("sync", ["--tools", "rclone"], "one file of 20 MiB:"),
        ("contents", [], "a look at"),
        ("growing", [], "large, storage copies parts:"),
        ("growth", [], "page of 100 jobs: "),
        ("fleet", ["--telling"], "of them HOT"),
        ("bulk", [], "jobs that were canceled: 300 of 300"),
        ("pages", [], "a job with many attempts: "),
        ("tabs", [], "answers to the tabs: "),
    ],
    ids=[
        "fill",
        "claim",
        "claim beside parked jobs",
        "sustained",
        "api",
        "waiting",
        "scaling",
        "turnaround",
        "startup",
        "torn",
        "idle",
        "sync",
        "contents",
        "growing",
        "growth",
        "fleet",
        "bulk",
        "pages",
        "tabs",
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
    assert [line for line in ran.stdout.splitlines() if line.startswith("MISSED")] == []
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert printed in ran.stdout


def test_the_table_of_results_names_what_was_missed_and_what_failed(tmp_path: Path) -> None:
    met = {"what": "a | b", "goal": "1 at most", "met": True}
    missed = {"what": "too slow", "goal": "under 2 s", "met": False}
    runs = [Run("one", (1.0, 2.0), 60.0, [met, missed]), Run("two", error="it failed, with exit code 2")]
    table = document(runs, quick=False, plot=tmp_path / "none.png")
    assert "| one | a \\| b | 1 at most | met |" in table
    assert "| one | too slow | under 2 s | **missed** |" in table
    assert "| two | it failed, with exit code 2 | | **failed** |" in table
    assert "| one | 60 | 1.0, 2.0 |" in table


def test_goals_are_rows_where_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_ROWS", str(tmp_path / "rows"))
    Goals(judged=True).figure("it takes 3 s (goal: under 2 s)", False)
    Goals(judged=False).figure("it takes 3 s", False)
    assert [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()] == [
        {"what": "it takes 3 s", "goal": "under 2 s", "met": False},
        {"what": "it takes 3 s", "goal": "", "met": None},
    ]
