"""The drawings of the design pages show what the code does, not what it did once."""

from __future__ import annotations

import re

from kelpie_worker.pipeline import NEXT, Phase
from local_stack.processes import CHECKOUT

PAGE = (CHECKOUT / "docs" / "design" / "architecture.md").read_text()


def arrows_of_the_pipeline() -> dict[tuple[str, str], str]:
    """From phase to phase, with the messages that lead there."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (phase, message), following in NEXT.items():
        arrows.setdefault((phase, following), []).append(message.__name__)
    return {arrow: ", ".join(messages) for arrow, messages in arrows.items()}


def arrows_of_the_page() -> dict[tuple[str, str], str]:
    (drawing,) = re.findall(r"stateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
    lines = re.findall(r"^  (\S+) --> (\S+?)(?:: (.*))?$", drawing, re.MULTILINE)
    assert len(lines) == len(drawing.splitlines())
    ends = {"[*]": Phase.DONE}
    return {(start, ends.get(end, end)): label for start, end, label in lines if start != "[*]"}


def test_the_phases_of_a_job_are_drawn_with_every_arrow() -> None:
    assert arrows_of_the_page() == arrows_of_the_pipeline()


def test_every_room_is_drawn() -> None:
    """Among the coordinator's and the worker's rooms, folders and files alike."""
    for program in ("kelpie_api", "kelpie_worker"):
        for path in (CHECKOUT / program).iterdir():
            name = path.stem
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                assert name == "__init__" or re.search(rf"\b{name}\b", PAGE), f"{path} is in no drawing"
