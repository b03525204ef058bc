"""The program that a profile names as `credential_process`: it has a minute, and what it does wrong is said.

boto3 alone would wait for it without end, and takes some of its mistakes for answers of the storage.
"""

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

from botocore import credentials
from botocore.exceptions import CredentialRetrievalError

LONGEST = 60.0  # seconds


class _Program(subprocess.Popen[bytes]):
    """Has no standard input: a question that it asked there would never be answered."""

    def __init__(self, arguments: list[str], **streams: Any) -> None:
        self._name = arguments[0] if arguments else ""
        try:
            super().__init__(arguments, stdin=subprocess.DEVNULL, start_new_session=True, **streams)
        except OSError as error:
            raise _useless(f"{self._name} cannot be started: {error.strerror}") from error
        except (IndexError, ValueError) as error:
            raise _useless("credential_process names no program") from error

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """What it printed. Raises CredentialRetrievalError if it does not end, or prints no JSON object."""
        try:
            printed, complaints = super().communicate(input, timeout or LONGEST)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait()
            for pipe in filter(None, (self.stdout, self.stderr)):
                pipe.close()
            raise _useless(f"{self._name} did not end within {timeout or LONGEST:g} s") from error
        if self.returncode == 0 and not _is_object(printed):
            raise _useless(f"{self._name} printed no JSON object")
        return printed, complaints.decode(errors="replace").encode()


class _Provider(credentials.ProcessProvider):
    def __init__(self, profile_name: str, load_config: Any, popen: Any = _Program) -> None:
        super().__init__(profile_name, load_config, popen)


def bound() -> None:
    """Hold every such program to these rules.

    boto3 makes the provider in two places, for the profile and for the one that an assumed role names as its
    source, and takes another program starter in neither; so its class is replaced.
    """
    credentials.ProcessProvider = _Provider  # type: ignore[misc]


def _is_object(printed: bytes) -> bool:
    try:
        return isinstance(json.loads(printed), dict)
    except ValueError:
        return False


def _useless(sentence: str) -> CredentialRetrievalError:
    return CredentialRetrievalError(provider="credential_process", error_msg=sentence)
