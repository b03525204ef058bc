"""Calls to Salad's instance metadata service, and the claims of its tokens.

Each call ends within seconds: a metadata service that hangs must delay no other work. No proxy is used, even if
the environment names one: the metadata service is on the machine itself.
"""

import base64
import binascii
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any
from urllib.parse import urlsplit

from kelpie_version import VERSION
from kelpie_worker import logs
from kelpie_worker.limits import LONGEST_NAME
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import Failure, retry, sleep

_TIMEOUT = 1.5  # seconds without a byte
LONGEST_CALL = 3.0  # seconds in all
_LARGEST_ANSWER = 64 * 1024
_LONGEST_REASON = 1000  # characters
BACKOFF = Backoff(0.5, 15.0)  # from one call for a token to the next


class ImdsUnavailable(Exception):
    """The metadata service gave no answer, or an unusable one. `refused`: it answered with a 4xx."""

    def __init__(self, sentence: str, refused: bool = False) -> None:
        super().__init__(sentence)
        self.refused = refused


class Imds:
    """The calls; each raises ImdsUnavailable. To be used from any thread."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def set_deletion_cost(self, cost: int) -> None:
        self._call("PUT", "/v1/deletion-cost", {"deletion_cost": cost})

    def reallocate(self, reason: str) -> None:
        self._call("POST", "/v1/reallocate", {"reason": reason[:_LONGEST_REASON]})

    def recreate(self) -> None:
        self._call("POST", "/v1/recreate")

    def is_ready(self) -> bool:
        return bool(self._call("GET", "/v1/status").get("ready"))

    def token(self) -> str:
        token = self._call("GET", "/v1/token").get("jwt")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise ImdsUnavailable("the metadata service answered without a token")
        return token

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=_TIMEOUT)
        guard = threading.Timer(LONGEST_CALL, _hang_up, args=(connection,))
        guard.daemon = True
        guard.start()
        try:
            connection.request(method, self._url.path + path, _encoded(body), _headers(body))
            response = connection.getresponse()
            return _answer(f"{method} {path}", response.status, response.read(_LARGEST_ANSWER))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ImdsUnavailable(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            guard.cancel()
            connection.close()


def _headers(body: Mapping[str, Any] | None) -> dict[str, str]:
    headers = {"Metadata": "true", "User-Agent": f"kelpie/{VERSION}"}
    return headers if body is None else headers | {"Content-Type": "application/json"}


def _encoded(body: Mapping[str, Any] | None) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _answer(call: str, status: int, content: bytes) -> dict[str, Any]:
    if 200 <= status < 300:
        answer = json.loads(content) if content else {}
        if not isinstance(answer, dict):
            raise ValueError("no JSON object")
        return answer
    detail = ""
    with suppress(ValueError, AttributeError):
        detail = str(json.loads(content).get("detail") or "")[:200]
    raise ImdsUnavailable(f"{call} was answered with {status} {detail}".strip(), refused=400 <= status < 500)


def _hang_up(connection: http.client.HTTPConnection) -> None:
    """Close the connection. An answer that comes one byte at a time would never time out by itself."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Whereabouts:
    """Where a token was issued; empty where it does not say. The API compares both with what the worker tells."""

    machine_id: str
    container_group_id: str


def whereabouts(imds_url: str, patience: float | None = None) -> Whereabouts:
    """Read from the first token that the service issues; waits for it.

    Raises ImdsUnavailable if there is none within `patience` seconds.
    """
    imds = Imds(imds_url)
    ends = inf if patience is None else boottime() + patience
    return retry(
        lambda: whereabouts_of(imds.token()),
        on=ImdsUnavailable,
        backoff=BACKOFF,
        pause=lambda seconds: sleep(min(seconds, max(0.0, ends - boottime()))),
        until=lambda failure: boottime() >= ends,
        on_failure=tell_first,
    )


def tell_first(failure: Failure[ImdsUnavailable]) -> None:
    """Log that no token is to be had, once in a row of failures."""
    if failure.number == 1:
        log_trouble(failure.error)


def log_trouble(error: ImdsUnavailable) -> None:
    advice = "no token of Salad's is to be had: set KELPIE_API_KEY or SALAD_API_KEY, or correct SALAD_IMDS_URL"
    logs.warn("token_not_fetched", detail=str(error), advice=advice if error.refused else None)


def whereabouts_of(token: str) -> Whereabouts:
    claims = claims_of(token)
    return Whereabouts(_name(claims.get("salad_machine_id")), _name(claims.get("salad_workload_id")))


def _name(claim: Any) -> str:
    usable = isinstance(claim, str) and claim.isprintable() and len(claim) <= LONGEST_NAME
    return claim if usable else ""


def claims_of(token: str) -> dict[str, Any]:
    """A token's claims, unverified: the API verifies them, and nothing is permitted here because of them."""
    with suppress(ValueError, IndexError, binascii.Error):
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        if isinstance(claims, dict):
            return claims
    return {}
