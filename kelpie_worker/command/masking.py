"""Masking: removes the secrets of a job's environment from what is reported."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit

_SHORTEST_SECRET = 4  # characters of a variable's value; shorter values occur in ordinary output
_FLAGS = {"true", "false", "none", "null", "auto"}  # and so do these
_SHORTEST_SECRET_LINE = 16
_SECRET_NAME = re.compile(
    "KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|PRIVATE|SIGNATURE|COOKIE|SESSION|DSN|CONNECTION|WEBHOOK"
    "|^WANDB|^HF_|_PAT$|^PAT_",
    re.IGNORECASE,
)


def mask(content: bytes, secrets: Collection[bytes]) -> bytes:
    """The content with an asterisk for every byte of a secret."""
    masked = bytearray(content)
    for secret in secrets:
        at = content.find(secret)
        while at >= 0:
            masked[at : at + len(secret)] = b"*" * len(secret)
            at = content.find(secret, at + 1)
    return bytes(masked)


def secrets_of(
    environment: Mapping[str, str], known: Collection[str], named: Collection[str] = ()
) -> frozenset[bytes]:
    """The secrets of an environment: the `known` ones, values of the `named` variables and of those with a telling
    name, passwords in URLs.

    Each is returned in every form in which programs print it: as it is, escaped, URL-encoded, in base64.
    """
    found = set(known)
    for name, value in environment.items():
        is_named = name in named and len(value) >= _SHORTEST_SECRET
        if is_named or (_SECRET_NAME.search(name) and not _is_plain(value)):
            found.add(value)
            found |= {line for line in value.splitlines() if len(line) >= _SHORTEST_SECRET_LINE}
        found |= _password(value)
    return frozenset(form for secret in found if secret for form in _forms(secret))


def _is_plain(value: str) -> bool:
    """Whether a value is no secret whatever its variable's name: short (a number), a flag, or a path (HF_HOME)."""
    return len(value) < _SHORTEST_SECRET or value.lower() in _FLAGS or value.startswith(("/", "./", "~/"))


def _password(url: str) -> set[str]:
    try:
        password = urlsplit(url).password if "://" in url else None
    except ValueError:
        return set()
    return {password, unquote(password, errors="surrogateescape")} if password else set()


def _forms(secret: str) -> Iterator[bytes]:
    content = secret.encode(errors="surrogateescape")
    yield content
    for escaped in (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        yield escaped[1:-1].encode(errors="surrogateescape")
    yield quote(content, safe="").encode()
    yield quote(content, safe="/").encode()
    for encoded in (base64.b64encode(content), base64.urlsafe_b64encode(content)):
        yield encoded.rstrip(b"=")  # without padding, so that both spellings are found
