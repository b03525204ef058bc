"""Every environment variable of the coordinator, read once into one frozen object
(docs/operating.md, Settings)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from kelpie_api.errors import ConfigError


@dataclass(frozen=True)
class Config:
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    admin_key: str | None = field(repr=False, default=None)
    log_level: str = "INFO"
    salad_api_url: str = "https://api.salad.com/api/public"
    salad_api_key: str | None = field(repr=False, default=None)  # the coordinator's own
    salad_jwks_url: str = "https://matrix-rest-api.salad.com/.well-known/workload-jwks.json"
    jwt_issuer: str = "https://matrix-api.salad.io"
    jwt_algorithms: tuple[str, ...] = ("ES256",)
    jwt_strict: bool = True
    jwt_can_submit: bool = False
    proven_for: timedelta = timedelta(minutes=5)  # how long a Salad API key is believed
    refused_for: timedelta = timedelta(seconds=15)  # how long a refused one is not asked about again
    webhook_allow_private: bool = False
    cors_origins: tuple[str, ...] = ("*",)
    max_bans: int = 5  # of a machine in a group, by its own fault; then it is reallocated (0: never)
    max_waiters: int = 1000  # requests of one process that wait for work at the same time

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Config:
        """Read all settings; ConfigError names the variable that is missing or wrong."""
        secret_key = required(env, "KELPIE_SECRET_KEY", "a random string of 32 characters or more")
        if len(secret_key) < 32:
            raise ConfigError("KELPIE_SECRET_KEY is too short: it needs 32 characters or more.")
        return cls(
            database_url=database_url(env),
            secret_key=secret_key,
            admin_key=env.get("KELPIE_ADMIN_KEY") or None,
            log_level=log_level(env),
            salad_api_url=web_address(env, "SALAD_API_URL", cls.salad_api_url),
            salad_api_key=salad_api_key(env),
            salad_jwks_url=web_address(env, "SALAD_JWKS_URL", cls.salad_jwks_url),
            jwt_issuer=env.get("KELPIE_JWT_ISSUER", cls.jwt_issuer),
            jwt_algorithms=jwt_algorithms(env, cls.jwt_algorithms),
            jwt_strict=true_or_false(env, "KELPIE_JWT_STRICT", cls.jwt_strict),
            jwt_can_submit=true_or_false(env, "KELPIE_JWT_CAN_SUBMIT", cls.jwt_can_submit),
            proven_for=seconds(env, "KELPIE_SALAD_KEY_TTL_S", cls.proven_for),
            refused_for=seconds(env, "KELPIE_SALAD_KEY_REFUSED_TTL_S", cls.refused_for),
            webhook_allow_private=true_or_false(env, "KELPIE_WEBHOOK_ALLOW_PRIVATE", cls.webhook_allow_private),
            cors_origins=origins(env, "KELPIE_CORS_ORIGINS", cls.cors_origins),
            max_bans=whole_number(env, "KELPIE_MAX_BANS_PER_MACHINE", cls.max_bans),
            max_waiters=whole_number(env, "KELPIE_MAX_WAITERS", cls.max_waiters),
        )


def database_url(env: Mapping[str, str]) -> str:
    """The one setting that the migrations need too. What is wrong with it is not quoted: it holds a password."""
    url = required(env, "DATABASE_URL", "the address of a Postgres 15 or newer")
    try:
        port = str(conninfo_to_dict(url).get("port") or "")
    except psycopg.ProgrammingError:
        port = "none"
    if not all(one.strip().isdigit() or not one for one in port.split(",")):
        raise ConfigError(
            "DATABASE_URL is no address of a Postgres; write postgresql://user:password@host:5432/database, with"
            " what is special in a password as %40 and the like."
        )
    return url


def required(env: Mapping[str, str], name: str, what: str) -> str:
    value = env.get(name)
    if not value:
        raise ConfigError(f"{name} is not set: it must hold {what}.")
    return value


def web_address(env: Mapping[str, str], name: str, default: str) -> str:
    url = env.get(name, "").strip() or default
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not (usable and url.isascii() and url.isprintable() and " " not in url):
        raise ConfigError(f"{name} must be an http or https address, not {url!r}.")
    return url.rstrip("/")


def salad_api_key(env: Mapping[str, str]) -> str | None:
    """It is sent in a header. The line break at the end of a secret's file is no part of it; what is wrong with it
    is said without showing it."""
    key = env.get("SALAD_API_KEY", "").strip()
    if not all(32 <= ord(character) < 127 for character in key):
        raise ConfigError("SALAD_API_KEY must be one line of printable ASCII.")
    return key or None


def log_level(env: Mapping[str, str]) -> str:
    level = env.get("KELPIE_LOG_LEVEL", "info").upper()
    if level not in {"DEBUG", "INFO", "WARN", "WARNING", "ERROR"}:
        raise ConfigError(f"KELPIE_LOG_LEVEL must be debug, info, warn or error, not {env['KELPIE_LOG_LEVEL']!r}.")
    return "WARNING" if level == "WARN" else level


def true_or_false(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if text not in {"", "true", "false", "1", "0", "yes", "no"}:
        raise ConfigError(f"{name} must be true or false, not {env[name]!r}.")
    return text in {"true", "1", "yes"} if text else default


def whole_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ConfigError(f"{name} must be a whole number, 0 or more, not {text!r}.")
    return int(text)


def seconds(env: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    return timedelta(seconds=whole_number(env, name, int(default.total_seconds())))


def listed(env: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A comma-separated list without empty places."""
    return tuple(item.strip() for item in env.get(name, "").split(",") if item.strip()) or default


def origins(env: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """As browsers write them; any other spelling would never match and be wondered about."""
    for origin in (named := listed(env, name, default)):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+", origin):
            raise ConfigError(f"{name} names {origin!r}, which is no origin: write https://example.com or *.")
    return named


def jwt_algorithms(env: Mapping[str, str], default: tuple[str, ...]) -> tuple[str, ...]:
    """Only asymmetric ones: with HS256 the public key, which anybody can fetch, would sign tokens."""
    algorithms = listed(env, "KELPIE_JWT_ALGORITHMS", default)
    for algorithm in algorithms:
        if algorithm not in {
            "ES256",
            "ES384",
            "ES512",
            "RS256",
            "RS384",
            "RS512",
            "PS256",
            "PS384",
            "PS512",
            "EdDSA",
        }:
            raise ConfigError(
                f"KELPIE_JWT_ALGORITHMS names {algorithm!r}, which is no algorithm with a public key."
            )
    return algorithms
