"""The README's first section does what it says, typed into terminals in an empty home."""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import unescape

from local_stack.processes import CHECKOUT, processes_in, wait_for
from tests.first_steps import Person, blocks, enter, installed_and_up


def test_the_recording_shows_the_lines_of_the_section() -> None:
    """`scripts/record` makes it anew."""
    recording = (CHECKOUT / "docs" / "first-steps.svg").read_text()
    shown = unescape(re.sub(r"<[^>]*>|\s", "", recording), {"&quot;": '"'})
    _, (_, *lines) = blocks()
    assert [line for line in lines if "".join(line.split()) not in shown] == []


def test_a_person_installs_submits_loses_a_machine_and_sees_the_job_go_on(tmp_path: Path) -> None:
    install, (activate, submit, show, kill, wait, logs, attempts) = blocks()
    person = Person(tmp_path / "home")
    with installed_and_up(person, install) as exports:
        folder = Path(re.search(r"KELPIE_DEV_FOLDER=(\S+)", exports)[1])  # type: ignore[index]
        with person.terminal() as terminal:
            enter(terminal, activate)
            for line in exports.splitlines():
                enter(terminal, line)
            enter(terminal, submit)
            wait_for(lambda: "running" in enter(terminal, show), "the job to run")
            wait_for(lambda: "%" in enter(terminal, show), "progress", pause=1)
            assert "?[" not in terminal.screen()  # a colour that was taken for foreign text
            assert "is lost" in enter(terminal, kill)
            enter(terminal, wait)
            assert enter(terminal, "echo code $?") == "code 0"
            said = enter(terminal, logs)
            assert re.search(r"resumed from step [1-9]\d* of 200", said) and "counted to 200" in said
            said = enter(terminal, attempts)
            assert "interrupted" in said and "completed" in said
        assert processes_in(folder)
    assert not folder.exists() and not processes_in(folder)
