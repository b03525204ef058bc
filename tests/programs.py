"""Programs of the system that tests start. Where one is missing its tests are skipped; a run that asks for all
(`KELPIE_TEST_PROGRAMS=required`) fails."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

WHERE = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


def find(name: str, package: str) -> str:
    """The path of a program, which is in that package of Debian's."""
    found = shutil.which(name, path=WHERE)
    return found or cannot(f"{name} is not here. On Debian and Ubuntu: apt-get install {package}")


def cannot(reason: str) -> NoReturn:
    if os.environ.get("KELPIE_TEST_PROGRAMS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
