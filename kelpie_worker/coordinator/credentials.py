"""The credential that the worker sends to the coordinator: a key, or its instance's token, renewed in time."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from kelpie_worker.config import Authorization, TokenUse
from kelpie_worker.salad.imds import BACKOFF, Imds, ImdsUnavailable, claims_of, tell_first
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.retry import retry, sleep

_SHORTEST_PAUSE = 1.0  # seconds from one token to the next
_USUAL_LIFE = 300.0  # seconds, for a token without an expiry
PATIENCE = 2.0  # seconds that a call to the API waits for the first token


class NoToken(Exception):
    """The metadata service has not issued one yet."""


class Credentials:
    """The headers that authorize a call, with a token that a thread of its own keeps fresh.

    One for each process: the thread starts with the first call that needs it, and fetches well before the token
    ends, or as soon as the API refuses it. While nothing new is to be had the old token is sent on.
    """

    def __init__(self, authorization: Authorization, imds_url: str | None) -> None:
        self._authorization = authorization
        self._imds = Imds(imds_url) if imds_url else None
        self._changed = threading.Condition()
        self._token: str | None = None
        self._refused = False
        self._running = False
        self._asked_at = 0.0  # CLOCK_BOOTTIME, for the newest token

    def headers(self, patience: float = PATIENCE) -> dict[str, str]:
        """Raises NoToken if there is none within `patience` seconds."""
        headers = dict(self._authorization.headers)
        match self._authorization.token:
            case TokenUse.BEARER:
                headers["Authorization"] = f"Bearer {self._known_token(patience)}"
            case TokenUse.ORGANIZATION:
                headers["Salad-Organization"] = organization_of(self._known_token(patience))
        return headers

    def refused(self, headers: Mapping[str, str]) -> None:
        """The API did not accept these: its token may have ended earlier than it was thought to."""
        with self._changed:
            if self._token and headers.get("Authorization") == f"Bearer {self._token}":
                self._refused = True
                self._changed.notify_all()

    def _known_token(self, patience: float) -> str:
        with self._changed:
            if not self._running:
                self._running = True
                threading.Thread(target=self._keep_fresh, daemon=True).start()
            if not self._changed.wait_for(lambda: self._token, min(patience, PATIENCE)):
                raise NoToken("the metadata service has issued no token yet")
            assert self._token is not None
            return self._token

    def _keep_fresh(self) -> None:
        while True:
            token = retry(
                self._fetched, on=ImdsUnavailable, backoff=BACKOFF, pause=self._pause, on_failure=tell_first
            )
            self._learn(token)
            if self._authorization.token is TokenUse.ORGANIZATION:
                return  # a name does not end
            self._wait_until_due(life_of(token) / 2)

    def _fetched(self) -> str:
        self._asked_at = boottime()
        if self._imds is None:
            raise ImdsUnavailable("no metadata service is known")
        token = self._imds.token()
        if self._authorization.token is TokenUse.ORGANIZATION:
            organization_of(token)
        return token

    def _learn(self, token: str) -> None:
        with self._changed:
            self._token, self._refused = token, False
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """After a failure; the next call comes sooner where the API refuses the token."""
        with self._changed:
            self._changed.wait(seconds)

    def _wait_until_due(self, seconds: float) -> None:
        """Until the next token is due. A refused one makes it due at once, but not many times a second."""
        with self._changed:
            self._changed.wait_for(lambda: self._refused, seconds)
        sleep(max(0.0, _SHORTEST_PAUSE - (boottime() - self._asked_at)))


def organization_of(token: str) -> str:
    """Raises ImdsUnavailable if the token names none that a header can carry."""
    name = claims_of(token).get("salad_organization_name")
    if not isinstance(name, str) or not name or not name.isascii() or not name.isprintable():
        raise ImdsUnavailable("the token names no organization: set SALAD_ORGANIZATION")
    return name


def life_of(token: str) -> float:
    """Seconds from its issue to its end, by the issuer's clock alone."""
    claims = claims_of(token)
    begin, end = claims.get("iat"), claims.get("exp")
    if isinstance(begin, int | float) and isinstance(end, int | float) and begin < end:
        return min(float(end - begin), 86_400.0)
    return _USUAL_LIFE
