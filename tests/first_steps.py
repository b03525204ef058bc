"""The commands of the README, and its first section as one goes through it, in a checkout and an empty home."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_stack.processes import CHECKOUT, wait_for
from tests.terminal import LOOK_EVERY, Terminal

# What is not built from, and what belongs to this checkout alone.
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "node_modules")
README = CHECKOUT / "README.md"
PROMPT = "$ "
EXPORT = re.compile(r"^export .*$", re.MULTILINE)


def sections() -> dict[str, list[list[str]]]:
    """The lines of each block of commands, by the section of the README that has it."""
    _, *parts = re.split(r"^##+ (.*)\n", README.read_text(), flags=re.MULTILINE)
    found = {
        heading: [
            [line for line in block.splitlines() if line]
            for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        ]
        for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {heading: lines for heading, lines in found.items() if lines}


def blocks(section: str = "Begin") -> list[list[str]]:
    """The lines of each block of commands in a section."""
    return sections()[section]


def without_comment(line: str) -> str:
    """A line without the comment at its end."""
    return re.split(r"\s+# ", line)[0]


@dataclass
class Person:
    """A home and a checkout of the person's own."""

    home: Path

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.checkout = self.home / "checkout"
        shutil.copytree(CHECKOUT, self.checkout, ignore=LEFT_OUT, symlinks=True)
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.base_exec_prefix, 'bin')}:/usr/local/bin:/usr/bin:/bin",
            "PS1": PROMPT,
            "VIRTUAL_ENV_DISABLE_PROMPT": "1",
            # What pip would fetch is here already: see `bring_packages`.
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "1",  # modules are compiled as they are imported, and most never are
        }

    def terminal(self, size: tuple[int, int] = (120, 40)) -> Terminal:
        return Terminal(["bash", "--norc", "--noprofile"], self.checkout, self.environment, size)

    def bring_packages(self) -> None:
        """Let the environment that was made have the packages of this one, so that nothing is downloaded."""
        (packages,) = self.home.glob("kelpie/lib/*/site-packages")
        # Before its own: the setuptools that Python 3.11 brings along needs another package to build a wheel.
        (packages / "here.pth").write_text(f"import sys; sys.path.insert(1, {sysconfig.get_path('purelib')!r})\n")


def enter(terminal: Terminal, line: str, timeout: float = 60) -> str:
    """Type a line at the prompt and wait for the next one; what was printed in between.

    A line that is typed before the shell has begun is shown twice, and the first prompt would pass for its end.
    """
    wait_for(lambda: is_prompt(terminal.screen()), "a prompt", timeout, LOOK_EVERY)
    before = len(terminal.screen("-J").rstrip().splitlines())
    terminal.type(line)
    terminal.press("Enter")

    def answered() -> list[str] | None:
        seen = terminal.screen("-J").rstrip().splitlines()
        return seen if len(seen) > before and is_prompt(seen[-1]) else None

    try:
        seen = wait_for(answered, f"the end of {line}", timeout, LOOK_EVERY)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; on the screen:\n{terminal.screen()}") from error
    return "\n".join(seen[before:-1])


def is_prompt(seen: str) -> bool:
    """Whether the last line that is seen is a prompt at which nothing was typed."""
    return seen.rstrip().rpartition("\n")[2].strip() == PROMPT.strip()


def succeed(terminal: Terminal, line: str) -> str:
    """`enter` of a line that has to end with the exit code 0."""
    said = enter(terminal, line)
    assert enter(terminal, "echo code $?").strip() == "code 0", f"{line}:\n{terminal.screen()}"
    return said


@contextmanager
def installed_and_up(person: Person, install: list[str]) -> Iterator[str]:
    """The first block, with `kelpie dev up` in its last line. The lines that it has a person paste."""
    environment, pip, up = install
    with person.terminal() as terminal:
        enter(terminal, environment)
        person.bring_packages()
        enter(terminal, pip)
        terminal.type(up)
        terminal.press("Enter")
        try:
            terminal.wait_for("Ready:", 60)
            yield "\n".join(EXPORT.findall(terminal.screen("-J")))
        finally:
            terminal.press("C-c")
            wait_for(lambda: is_prompt(terminal.screen()), "kelpie dev up to end", 40)
