"""`kelpie`, or `python -m kelpie_worker`: works until SIGTERM or SIGINT; `kelpie doctor` looks for trouble.

Only what is cheap is imported here: a process that is spawned, as a nursery that begins from nothing, imports this
module too, and signals must be listened to before all that takes time.
"""

import os
import sys
from collections.abc import Sequence

from kelpie_worker.system import signals


def run() -> None:
    """The program: ends the process with the exit code of `main`."""
    # The first process of a container is not ended by a signal that it has not asked for, and there is nothing
    # in hand yet.
    signals.when_told_to_end(lambda _: os._exit(0))
    _have_standard_streams()
    import multiprocessing

    multiprocessing.freeze_support()  # a frozen process that is spawned ends in here
    try:
        code = main(sys.argv[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kelpie"):
            raise
        print(f"kelpie: {error.name} is not installed: pip install 'kelpie[worker]'", file=sys.stderr)
        code = 2
    sys.exit(code)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 after a shutdown, 1 if it cannot go on or the doctor found trouble, 2 if it refuses to start."""
    from kelpie_worker import cli

    asked = cli.parse(arguments)
    if asked.command == "doctor":
        signals.as_usual()
        from kelpie_worker import doctor
        from kelpie_worker.system import frozen

        with frozen.held():
            return doctor.examine(asked.bucket)
    return _work()


def _have_standard_streams() -> None:
    """Whoever starts us may have closed them; a file that is opened later would pass for one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _work() -> int:
    from kelpie_worker import config, worker
    from kelpie_worker.processes.forkserver import ForkServer
    from kelpie_worker.state_file import StateFileInUse
    from kelpie_worker.system import frozen

    try:
        settings = config.load()
        fork_server = ForkServer(worker.MAINS)  # while there is only one thread
        with frozen.held():
            return worker.work(settings, fork_server)
    except (config.ConfigError, StateFileInUse) as error:
        print(f"kelpie: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    run()
