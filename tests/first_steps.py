"""The first section of the README, as a person goes through it: its lines, in a checkout and an empty home."""

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
PROMPT = "$ "
EXPORT = re.compile(r"^export .*$", re.MULTILINE)


def blocks() -> list[list[str]]:
    """The lines of each block of commands in the section Begin."""
    _, _, section = (CHECKOUT / "README.md").read_text().partition("## Begin\n")
    section, _, _ = section.partition("\n## ")
    return [found.strip().splitlines() for found in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]


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
    """Type a line and wait for the next prompt; what was printed in between."""
    before = len(terminal.screen("-J").rstrip().splitlines())
    terminal.type(line)
    terminal.press("Enter")

    def answered() -> list[str] | None:
        seen = terminal.screen("-J").rstrip().splitlines()
        return seen if len(seen) > before and seen[-1].strip() == PROMPT.strip() else None

    try:
        seen = wait_for(answered, f"the end of {line}", timeout, LOOK_EVERY)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; on the screen:\n{terminal.screen()}") from error
    return "\n".join(seen[before:-1])


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
            wait_for(lambda: terminal.screen().rstrip().endswith(PROMPT.strip()), "kelpie dev up to end", 40)
