"""The drawings of the design pages show what the code does, not what it did once."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from kelpie_worker.messages import CARRIED_OUT_BY, Message
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


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("program", "title"),
    [
        ("kelpie_api", "Rooms of the coordinator"),
        ("kelpie_worker", "The worker's rooms"),
        ("kelpie", "The client's rooms"),
        ("local_stack", "The whole on one machine"),
    ],
)
def test_every_room_and_every_file_beside_them_is_drawn(program: str, title: str) -> None:
    drawing = section(title).partition("```mermaid")[2].partition("```")[0]
    for path in (CHECKOUT / program).iterdir():
        is_room = path.suffix == ".py" or (path / "__init__.py").is_file()
        if is_room and path.stem != "__init__":
            assert re.search(rf"\b{path.stem}\b", drawing), f"{path} is not drawn"


def names_between(start: str, end: str) -> set[str]:
    """What stands on the arrows between two processes of the worker; both are patterns."""
    drawing = section("Processes of the worker").partition("```mermaid")[2].partition("```")[0]
    labels = re.findall(rf'^  {start}(?:\[.*?\])? -- "(.*)" --> {end}(?:\[.*\])?$', drawing, re.MULTILINE)
    return {name for label in labels for name in label.split(", ")}


@pytest.mark.parametrize("process", sorted(set(CARRIED_OUT_BY.values())))
def test_every_command_is_drawn_where_it_goes(process: str) -> None:
    assert names_between("supervisor", process) == {
        command.__name__ for command, receiver in CARRIED_OUT_BY.items() if receiver == process
    }


def test_every_message_is_drawn_on_its_way_to_the_supervisor() -> None:
    assert names_between(r"\w+", "supervisor") == {message.__name__ for message in get_args(Message)}
