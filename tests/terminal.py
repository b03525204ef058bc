"""A terminal as a person has it: a shell in tmux, with keys that are pressed and a screen that is read."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_stack.processes import wait_for
from tests import programs

LOOK_EVERY = 0.2  # seconds: each look at a screen starts a program


class Terminal:
    """A context manager. `environment` is all that the shell's is; its processes end with it."""

    def __init__(
        self, shell: Sequence[str], folder: Path, environment: Mapping[str, str], size: tuple[int, int] = (120, 40)
    ) -> None:
        self._tmux = [programs.find("tmux", "tmux"), "-f", "/dev/null", "-L", f"kelpie-{uuid.uuid4().hex[:12]}"]
        self._environment = {"LANG": "C.UTF-8", "TERM": "xterm-256color", **environment}
        columns, rows = size
        self._run("new-session", "-d", "-x", str(columns), "-y", str(rows), "-c", str(folder), *shell)
        self._run("set-option", "history-limit", "10000")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._run("kill-server")

    def type(self, text: str) -> None:
        self._run("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: Enter, Tab, C-c."""
        self._run("send-keys", *keys)

    def screen(self, *options: str) -> str:
        """What is seen, and what has scrolled away; `-J` joins lines that were too long for it."""
        return self.visible("-S", "-", *options)

    def visible(self, *options: str) -> str:
        """What is seen; `-e` keeps its colours."""
        return self._run("capture-pane", "-p", *options)

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """The screen, once it shows that text. Raises TimeoutError with the screen."""
        try:
            return (
                wait_for(lambda: text in (seen := self.screen("-J")) and seen, repr(text), timeout, LOOK_EVERY)
                or ""
            )
        except TimeoutError as error:
            raise TimeoutError(f"{error} on the screen:\n{self.screen()}") from error

    def _run(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._tmux, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
