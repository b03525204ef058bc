"""What is read from the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from kelpie_worker.system import linux


@pytest.mark.parametrize(
    ("cgroup", "files", "kills"),
    [
        ("0::/a/b", {"sys/fs/cgroup/a/b/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ("0::/of/the/host", {"sys/fs/cgroup/memory.events": "oom 1\noom_kill 1\n"}, 1),
        ("4:cpu,memory:/a\n0::/", {"sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 5\n"}, 5),
        ("4:memory:/host", {"sys/fs/cgroup/memory/memory.oom_control": "oom_kill 4\n"}, 4),
        ("0::/", {"proc/vmstat": "nr_free_pages 7\noom_kill 6\n"}, 6),
        ("0::/", {"sys/fs/cgroup/memory.events": "oom_kill 1\n", "proc/vmstat": "oom_kill 6\n"}, 1),
        ("rubbish", {}, None),
        ("0::/", {}, None),
    ],
)
def test_where_the_kernel_counts_its_kills(
    tmp_path: Path, cgroup: str, files: dict[str, str], kills: int | None
) -> None:
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert linux.oom_kills(tmp_path) == kills
