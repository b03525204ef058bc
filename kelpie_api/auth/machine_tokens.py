"""Tokens of Salad's machines: JWTs, verified with Salad's public keys (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from typing import Any

import jwt

from kelpie_api.auth.caller import Machine
from kelpie_api.auth.jwks import Key, KeyRing
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.errors import Forbidden
from kelpie_api.limits import LONGEST_NAME

LONGEST_TOKEN = 8192
LEEWAY = 10  # seconds that the clocks may differ
REQUIRED = ["exp", "iat", "nbf", "iss", "aud", "sub"]


class MachineTokens:
    """Verifies tokens."""

    def __init__(self, db: Database, config: Config) -> None:
        self.algorithms = config.jwt_algorithms
        self.issuer = config.jwt_issuer
        self.keys = KeyRing(db, config)

    def machine(self, token: str) -> Machine:
        """The machine that a valid token names. Raises Forbidden; Unavailable while there are no keys."""
        header = header_of(token)
        algorithm = header.get("alg")
        if algorithm not in self.algorithms:
            raise Forbidden(f"This token is not signed with {' or '.join(self.algorithms)}; no other is accepted.")
        return bearer(self._claims(token, self.keys.candidates(header.get("kid"), algorithm)))

    def _claims(self, token: str, keys: list[Key]) -> dict[str, Any]:
        for key in keys:
            try:
                return self._proven(token, key)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise Forbidden(refusal(error)) from None
        raise Forbidden("This token is not signed with any of Salad's keys.")

    def _proven(self, token: str, key: Key) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.jwk,
            algorithms=[key.algorithm],
            issuer=self.issuer,
            leeway=LEEWAY,
            options={"require": REQUIRED, "verify_aud": False},  # the audience is compared with another claim
        )


def header_of(token: str) -> dict[str, Any]:
    """The token's header. Only `alg` and `kid` may be used: a forger chooses the rest (`jwk`, `jku`)."""
    try:
        header = jwt.get_unverified_header(token) if len(token) <= LONGEST_TOKEN else {"crit": "too long"}
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Forbidden("This is not a JSON Web Token.") from None
    if "crit" in header:
        raise Forbidden("This token is too long, or asks for an extension that is not known here.")
    return header


def refusal(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "This token has expired; fetch a new one."
        case jwt.ImmatureSignatureError():
            return "This token is not valid yet; look at the clocks."
        case jwt.MissingRequiredClaimError():
            return f"This token lacks the claim {error.claim}."
        case jwt.InvalidIssuerError():
            return "This token is of another issuer."
    return "This token is not valid."


def bearer(claims: dict[str, Any]) -> Machine:
    """The machine that verified claims name. Raises Forbidden for another audience than its organization."""
    organization_id = claim(claims, "salad_organization_id")
    if claims["aud"] not in (organization_id, [organization_id]):
        raise Forbidden("This token is for another audience than its own organization.")
    if not claims["sub"]:
        raise Forbidden("This token lacks the claim sub.")
    return Machine(
        claim(claims, "salad_organization_name"),
        claim(claims, "salad_workload_id"),
        claim(claims, "salad_machine_id"),
    )


def claim(claims: dict[str, Any], name: str) -> str:
    """A claim that is a name. Raises Forbidden, also if it is empty: '' is stored for the null group."""
    text = claims.get(name)
    if not isinstance(text, str) or not 1 <= len(text) <= LONGEST_NAME or not text.isprintable():
        raise Forbidden(f"This token lacks the claim {name}.")
    return text
