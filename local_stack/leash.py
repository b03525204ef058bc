"""Become another program that ends when its owner ends, however the owner ends.

    python -I -S leash.py OWNER_PID DEATH_SIGNAL [UID:GID] -- PROGRAM ARGUMENT...

A process of its own instead of code between fork and exec: the owner may have threads by then. It imports
nothing but the standard library, so that it starts in a few milliseconds.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
OWNER_IS_GONE = 127


def drop_to(account: str) -> None:
    uid, gid = map(int, account.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(owner: int, death_signal: int) -> None:
    """Where the kernel cannot do this (not Linux) the owner's own clean-up has to be enough."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != owner:  # it ended before the line above
        sys.exit(OWNER_IS_GONE)


def main(arguments: list[str]) -> None:
    border = arguments.index("--")
    owner, death_signal, *account = arguments[:border]
    program = arguments[border + 1 :]
    if account:
        drop_to(account[0])
    die_with(int(owner), int(death_signal))  # after drop_to: a change of user clears the death signal
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
