"""The public keys that verify machines' tokens: fetched in the background, stored for days while Salad is away."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import jwt

from kelpie_api import logs
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from kelpie_api.errors import NoAnswer, Unavailable
from kelpie_api.net.http import Reply, get
from kelpie_api.net.single_flight import Budget, Flights

FRESH_FOR = 600.0  # seconds; older keys are used while new ones are fetched
STALE_AFTER = 3600.0  # seconds; for keys older than this a request waits a moment for new ones
STALE_FOR = 7 * 24 * 3600.0  # seconds that keys are used while none can be fetched
LIMIT = 4.0  # seconds for one fetch
PATIENCE, SHORT_PATIENCE = 5.0, 2.0  # seconds that a request waits for keys: without any, and with old ones
PAUSE, PAUSE_WITHOUT_KEYS = 10.0, 2.0  # seconds after a fetch that failed
# A token that is signed with an unknown key has new keys fetched at once; made-up tokens must not do so without
# limit.
REFETCHES_AT_ONCE, REFETCH_PAUSE = 3, 10.0
MOST_KEYS = 100
SEVERAL = 10  # keys that one token may be tried with

# What a key must be for an algorithm: the type, and the curves.
KEYS_FOR = {
    "ES256": ("EC", {"P-256"}),
    "ES384": ("EC", {"P-384"}),
    "ES512": ("EC", {"P-521"}),
    "EdDSA": ("OKP", {"Ed25519", "Ed448"}),
}
RSA = ("RSA", {None})
PUBLIC_MEMBERS = {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops"}


@dataclass(frozen=True)
class Key:
    """A public key, for one algorithm."""

    kid: str | None
    algorithm: str
    jwk: jwt.PyJWK


class KeyRing:
    """Salad's public keys. No request waits for new ones while old ones can be used.

    (PyJWT's own client holds a lock while it fetches, and fails every request when its cache expires.)
    """

    def __init__(self, db: Database, config: Config) -> None:
        self.db = db
        self.url = config.salad_jwks_url
        self.algorithms = config.jwt_algorithms
        self.flights = Flights(at_once=1)
        self.keys: list[Key] = []
        self.fetched = float("-inf")  # all times are monotonic
        self.ask_again = float("-inf")
        self.refetches = Budget(1 / REFETCH_PAUSE, REFETCHES_AT_ONCE)

    def candidates(self, kid: str | None, algorithm: str) -> list[Key]:
        """The keys that a token may be signed with; an empty list if Salad has no such key.

        Raises Unavailable while that is not known: a token of a new key must not be refused as forged.
        """
        self._freshen()
        known = self.fetched
        found = self._named(kid, algorithm)
        if not found and self._recall():
            known = self.fetched
            found = self._named(kid, algorithm)
        if not found:
            self._fetch_now(known, self.refetches)
            found = self._named(kid, algorithm)
        return found[:SEVERAL]

    def age(self) -> float:
        return time.monotonic() - self.fetched

    def _named(self, kid: str | None, algorithm: str) -> list[Key]:
        """The keys with this name, then those without a name; all keys for a token without one."""
        found = [
            key for key in self.keys if key.algorithm == algorithm and (kid is None or key.kid in {None, kid})
        ]
        return sorted(found, key=lambda key: key.kid is None)

    def _freshen(self) -> None:
        if self.age() < FRESH_FOR:
            return
        if time.monotonic() >= self.ask_again:
            self._recall()
        known, age = self.fetched, self.age()
        if age >= STALE_FOR:
            self._fetch_now(known)
        elif age >= FRESH_FOR and time.monotonic() >= self.ask_again:
            self._fetch_meanwhile(known, SHORT_PATIENCE if age >= STALE_AFTER else 0.0)

    def _fetch_now(self, known: float, budget: Budget | None = None) -> None:
        try:
            if time.monotonic() < self.ask_again:
                raise NoAnswer("asked a moment ago")
            self.flights.ask(self, lambda: self._fetch(known), PATIENCE, budget)
        except NoAnswer:
            raise Unavailable(
                "Salad's keys, which prove this token, cannot be fetched; send the request again in a moment."
            ) from None

    def _fetch_meanwhile(self, known: float, patience: float) -> None:
        try:
            self.flights.ask(self, lambda: self._fetch(known), patience)
        except NoAnswer:
            return  # the old keys stay in use

    def _recall(self) -> bool:
        """Load the set that another process stored, if it is newer; whether it was."""
        stored = self.db.one_or_none(SQL.recall_jwks, url=self.url)
        # A second: the age comes from another clock.
        if stored is None or stored["age"] > self.age() - 1:
            return False
        self.keys, self.fetched = self._usable(stored["keys"]), time.monotonic() - stored["age"]
        return True

    def _fetch(self, known: float) -> None:
        """Fetch the set, unless another came since the one that was fetched at `known`."""
        if self.fetched != known:
            return  # another thread's fetch ended in between
        try:
            keys = public_keys_of(get(self.url, {"Accept": "application/json"}, LIMIT))
            usable = self._usable(keys)
            if not usable:
                raise NoAnswer("no usable key")
        except NoAnswer as silence:
            self.ask_again = time.monotonic() + (PAUSE if self.keys else PAUSE_WITHOUT_KEYS)
            logs.warning("jwks_silent", url=self.url, reason=str(silence))
            raise
        self.keys, self.fetched = usable, time.monotonic()
        self.db.execute(SQL.keep_jwks, url=self.url, keys=json.dumps(keys))

    def _usable(self, keys: list[dict[str, Any]]) -> list[Key]:
        return [key for jwk in keys for algorithm in self.algorithms if (key := key_from(jwk, algorithm))]


def public_keys_of(reply: Reply) -> list[dict[str, Any]]:
    """The public members of each key of a set, each key once. Raises NoAnswer if the reply is no set of keys."""
    keys = reply.json.get("keys") if isinstance(reply.json, dict) else None
    if reply.status != 200 or not isinstance(keys, list):
        raise NoAnswer(f"the answer, {reply.status}, is no set of keys")
    public: list[dict[str, Any]] = []
    for jwk in keys:
        members = (
            {name: value for name, value in jwk.items() if name in PUBLIC_MEMBERS} if isinstance(jwk, dict) else {}
        )
        if members and members not in public and len(public) < MOST_KEYS:
            public.append(members)
    return public


def key_from(jwk: dict[str, Any], algorithm: str) -> Key | None:
    """The key for this algorithm; None if its type or use does not fit, or it is malformed."""
    kty, curves = KEYS_FOR.get(algorithm, RSA)
    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    fits = (
        jwk.get("kty") == kty
        and jwk.get("crv") in list(curves)
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(kid, str | None)
    )
    if not fits:
        return None
    try:
        return Key(kid, algorithm, jwt.PyJWK(jwk, algorithm))
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
