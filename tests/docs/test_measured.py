"""What the guarantees say was measured is what bench/README.md says of that benchmark."""

from __future__ import annotations

import re

from local_stack.processes import CHECKOUT

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def sections() -> dict[str, str]:
    """The text on each benchmark, by its name."""
    _, *parts = re.split(r"^## (\w+)\n", (CHECKOUT / "bench" / "README.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_figure_stands_in_the_section_of_its_benchmark() -> None:
    page = (CHECKOUT / "docs" / "design" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \| `bench\.(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 8
    for what, found, bench in rows:
        missing = set(NUMBER.findall(found)) - set(NUMBER.findall(sections()[bench]))
        assert not missing, f"{what}: bench/README.md does not say {missing} under {bench}"


def test_every_benchmark_that_is_run_by_hand_is_listed() -> None:
    programs = [path.stem for path in (CHECKOUT / "bench").glob("*.py") if "__main__" in path.read_text()]
    listed = re.findall(r"`?bench\.(\w+)", (CHECKOUT / "bench" / "README.md").read_text())
    assert set(programs) - set(listed) == {"transfer", "trainer"}  # which bench.sync and bench.torn start
