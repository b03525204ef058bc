"""`python -m kelpie_worker`: run the worker until SIGTERM or SIGINT."""

import multiprocessing
import sys

from kelpie_worker import __version__


def main() -> int:
    """Exit code 0 after a shutdown, 2 if the worker refuses to start."""
    if sys.argv[1:] == ["--version"]:
        print(f"kelpie {__version__}")
        return 0
    # Imported here, for every child imports this module too and needs little of it.
    from kelpie_worker import config, worker
    from kelpie_worker.state_file import StateFileInUse

    try:
        return worker.work(config.load())
    except (config.ConfigError, StateFileInUse) as error:
        print(f"kelpie: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    multiprocessing.freeze_support()  # a frozen child ends in here
    from kelpie_worker import bundle

    with bundle.held():
        sys.exit(main())
