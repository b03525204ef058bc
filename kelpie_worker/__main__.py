"""`kelpie`, or `python -m kelpie_worker`: works until SIGTERM or SIGINT. `kelpie doctor` checks the set-up.

Only what is cheap is imported at the top: spawned processes (a new fork server, for example) import this module
too, and the signal handlers must be in place before the imports that take time.
"""

import os
import sys
from collections.abc import Sequence

from kelpie_version import VERSION
from kelpie_worker.system import signals


def run() -> None:
    """The program: ends the process with the exit code of `main`."""
    # The first process of a container ignores every signal for which it has no handler. There is no job to lose
    # yet.
    signals.when_told_to_end(lambda _: os._exit(0))
    _have_standard_streams()
    import multiprocessing

    multiprocessing.freeze_support()  # a process that a frozen worker spawned runs in this call, and exits
    try:
        code = main(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kelpie"):
            raise
        wheel = f"kelpie-{VERSION}-py3-none-any.whl"
        print(f"kelpie: {error.name} is missing: pip install './{wheel}[worker]'", file=sys.stderr)
        code = 2
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 after a shutdown, 1 if it cannot go on or a check failed, 2 if it refuses to start."""
    from kelpie_worker import cli

    given = cli.parse(arguments)
    if given.command == "licenses":
        from kelpie_worker import licenses

        signals.as_usual()
        licenses.show()
        return 0
    if given.command == "doctor":
        signals.as_usual()
        from kelpie_worker import doctor
        from kelpie_worker.system import frozen

        with frozen.folders_in_use():
            frozen.hide_bundle()
            return doctor.examine(given.bucket)
    return _work()


def _have_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed; the next opened file would take its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open returns the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - stays open until the process ends
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _work() -> int:
    from kelpie_worker import config, worker
    from kelpie_worker.processes.forkserver import ForkServer
    from kelpie_worker.state_file import StateFileInUse
    from kelpie_worker.system import frozen

    try:
        settings = config.load()
        fork_server = ForkServer(worker.MAINS)  # while there is only one thread
        with frozen.folders_in_use():
            return worker.work(settings, fork_server)
    except config.ConfigError as error:
        print("\n".join(f"kelpie: {sentence}" for sentence in error.sentences), file=sys.stderr)
        return 2
    except StateFileInUse as error:
        print(f"kelpie: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    run()
