"""`kelpie` and `python -m kelpie`: the command line, or the worker in its place."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

OF_THE_WORKER = ("worker", "doctor", "licenses")
NO_WORKER = "The worker is not installed: pip install 'kelpie[worker]'"


def main() -> None:
    """Run the command of the arguments. The worker takes the place of this process before anything is imported
    that takes time: a signal to end then finds it, and not this."""
    if sys.argv[1:2] and sys.argv[1] in OF_THE_WORKER:
        become_worker(sys.argv[1], sys.argv[2:])
    # httpx imports a command line of its own, with rich and pygments where they are installed: 0.1 seconds.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from kelpie.cli import main as command_line

    command_line()


def become_worker(command: str, arguments: list[str]) -> None:
    if not all(find_spec(package) for package in ("kelpie_worker", "boto3", "requests", "watchdog", "regress")):
        sys.exit(NO_WORKER)
    os.execv(sys.executable, [sys.executable, "-m", "kelpie_worker", command, *arguments])


if __name__ == "__main__":
    main()
