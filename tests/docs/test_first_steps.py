"""The commands of the README do what they say, typed into terminals."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import unescape

from local_stack.client import ApiClient
from local_stack.processes import CHECKOUT, free_port, processes_in, wait_for
from local_stack.stack import NO_METADATA_SERVICE
from tests import programs
from tests.conftest import ADMIN_KEY, SECRET_KEY
from tests.first_steps import (
    PROMPT,
    README,
    Person,
    blocks,
    enter,
    installed_and_up,
    is_prompt,
    sections,
    succeed,
    without_comment,
)
from tests.terminal import Terminal


def test_every_command_of_the_readme_is_tried() -> None:
    """`scripts/demo` by tests/local_stack/test_demo.py, `scripts/test` by what runs all tests, those of the
    containers by tests/containers, and the others below."""
    assert sections().keys() == {"Begin", "See it work", "Run it", "Run it in containers"}
    ((_, test),) = blocks("See it work")
    assert without_comment(test) in re.findall(r"scripts/\w+", (CHECKOUT / ".ci" / "run").read_text())


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


def test_an_operator_starts_a_coordinator_whose_worker_takes_a_job_to_its_end(
    empty_database: str, tmp_path: Path
) -> None:
    (bootstrap,), (migrate, serve, webhooks, prune, usage, autoscale, user, key) = blocks("Run it")
    programs.find("curl", "curl")
    address = f"127.0.0.1:{free_port()}"
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.base_exec_prefix, 'bin')}:/usr/local/bin:/usr/bin:/bin",
        "PS1": PROMPT,
        "PROMPT_COMMAND": "echo",  # an answer of the API has no line end
        "VIRTUAL_ENV_DISABLE_PROMPT": "1",
        "PIP_NO_INDEX": "1",  # the environment that runs this has all packages
        "NO_PROXY": "127.0.0.1",
        "API": f"http://{address}",
    }
    settings = {
        "DATABASE_URL": empty_database,
        "KELPIE_SECRET_KEY": SECRET_KEY,
        "KELPIE_ADMIN_KEY": ADMIN_KEY,
        "SALAD_API_KEY": "unused-for-there-is-no-rule",
        "KELPIE_BIND": address,
        "WEB_CONCURRENCY": "1",
    }
    with in_checkout(environment | settings) as terminal:
        succeed(terminal, bootstrap)
        assert "the schema is at version" in succeed(terminal, migrate)
        with (
            running(environment | settings, [bootstrap], serve) as api,
            running(environment | settings, [bootstrap], webhooks) as sender,
        ):
            assert "Removed 0 jobs" in succeed(terminal, prune)
            assert "create-user" in succeed(terminal, usage)
            assert "decision" in succeed(terminal, autoscale)
            sender.wait_for("sender_started")
            wait_for(ApiClient(environment["API"], "").is_ready, f"the API:\n{api.screen()}", timeout=60)
            made = json.loads(succeed(terminal, user))
            enter(terminal, f"export USER_ID={made['id']}")
            made = json.loads(succeed(terminal, key))
            enter(terminal, f"export KEY={made['token']}")
            with a_worker(environment | {"KELPIE_API_KEY": made["token"]}, bootstrap, tmp_path):
                submit, look, attempts = by_hand()[:3]
                succeed(terminal, submit)
                wait_for(lambda: '"status":"completed"' in enter(terminal, look), "the job to complete", 60, 0.5)
                assert '"outcome":"completed"' in succeed(terminal, attempts)


def by_hand() -> list[str]:
    """The calls of the tour with curl, without what is said of them."""
    _, block, _ = re.split(r"^```(?:sh)?\n", (CHECKOUT / "docs" / "curl.md").read_text(), flags=re.MULTILINE)
    return [re.sub(r"^#.*\n", "", call, flags=re.MULTILINE).strip() for call in block.split("\n\n")]


@contextmanager
def a_worker(environment: dict[str, str], bootstrap: str, folder: Path) -> Iterator[Terminal]:
    """The worker from this checkout, as the README starts it."""
    found = re.search(r"From a checkout, after `([^`]+)`, `([^`]+)` is the same program", README.read_text())
    assert found
    places = ("KELPIE_RUNTIME_DIR", "INPUT_DIR", "CHECKPOINT_DIR", "OUTPUT_DIR")
    settings = {
        "KELPIE_API_URL": environment["API"],
        "SALAD_CONTAINER_GROUP_ID": "local-group",
        "SALAD_MACHINE_ID": "machine-1",
        "SALAD_IMDS_URL": NO_METADATA_SERVICE,
        "AWS_ACCESS_KEY_ID": "unused",
        "AWS_SECRET_ACCESS_KEY": "unused",
        "KELPIE_STATE_FILE": str(folder / "kelpie-state.json"),
        **{place: str(folder / place.lower()) for place in places},
    }
    with running(environment | settings, [bootstrap, found[1]], found[2]) as terminal:
        yield terminal


@contextmanager
def running(environment: dict[str, str], before: list[str], line: str) -> Iterator[Terminal]:
    """A terminal in which some lines have ended and one goes on, until Ctrl-C, at which it has to end well."""
    with in_checkout(environment) as terminal:
        for ending in before:
            succeed(terminal, ending)
        terminal.type(line)
        terminal.press("Enter")
        yield terminal
        terminal.press("C-c")
        wait_for(lambda: is_prompt(terminal.screen()), f"{line} to end", 40, 0.2)
        assert enter(terminal, "echo code $?").strip() == "code 0", terminal.screen()


def in_checkout(environment: dict[str, str]) -> Terminal:
    return Terminal(["bash", "--norc", "--noprofile"], CHECKOUT, environment, (150, 50))
