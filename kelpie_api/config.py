"""Every environment variable of the coordinator, read once into one frozen object (contract section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kelpie_api.errors import ConfigError


@dataclass(frozen=True)
class Config:
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    admin_key: str | None = field(repr=False, default=None)
    log_level: str = "INFO"

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
        )


def database_url(env: Mapping[str, str]) -> str:
    """The one setting that the migrations need too."""
    return required(env, "DATABASE_URL", "the address of a Postgres 15 or newer")


def required(env: Mapping[str, str], name: str, what: str) -> str:
    value = env.get(name)
    if not value:
        raise ConfigError(f"{name} is not set: it must hold {what}.")
    return value


def log_level(env: Mapping[str, str]) -> str:
    level = env.get("KELPIE_LOG_LEVEL", "info").upper()
    if level not in {"DEBUG", "INFO", "WARN", "WARNING", "ERROR"}:
        raise ConfigError(f"KELPIE_LOG_LEVEL must be debug, info, warn or error, not {env['KELPIE_LOG_LEVEL']!r}.")
    return "WARNING" if level == "WARN" else level
