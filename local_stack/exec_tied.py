"""Execute a program that gets a signal when the process that started it ends, for whatever reason.

    python -I -S exec_tied.py OWNER_PID DEATH_SIGNAL [UID:GID] -- PROGRAM ARGUMENT...

It is a process of its own, and no code between fork and exec, because the owner may have threads. It imports only
the standard library, so that it starts within milliseconds.
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
    """Ask the kernel for the signal.

    On systems other than Linux only the owner's own clean-up ends the program.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != owner:  # the owner ended before the prctl call
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
