"""`kelpie licenses`: under which licences the program and all that is in it are passed on."""

import lzma
import os
import sys
from pathlib import Path

from kelpie_version import VERSION
from kelpie_worker.system.frozen import is_frozen

_NOTHING_ELSE = f"""Kelpie {VERSION} is under the MIT licence.

This is not the one file that scripts/freeze makes, so nothing else is passed on with it: each Python package that
it uses brings the text of its licence along, which pip show --files PACKAGE names.
"""


def show() -> None:
    try:
        print(text(), end="", flush=True)
    except (
        BrokenPipeError
    ):  # `| head` has read enough; nothing may be left for the interpreter to write at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def text() -> str:
    """Of the one file, the texts that its build collected."""
    if not is_frozen():
        return _NOTHING_ELSE
    packed = Path(sys._MEIPASS, "licenses.xz")  # type: ignore[attr-defined]
    return lzma.decompress(packed.read_bytes()).decode()
