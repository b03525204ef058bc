"""Every environment variable of the coordinator: a table of them all, and what they hold as one frozen object
(docs/operating.md, Settings)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from kelpie_api.errors import ConfigError
from kelpie_api.logs import LEVELS

LARGEST_NUMBER = 999_999_999
SHORTEST_KEY = 32  # characters of a KELPIE_SECRET_KEY
SHORTEST_ADMIN_KEY = 20  # characters; a key that can be guessed opens all jobs of all users


@dataclass(frozen=True)
class Kind:
    """A kind of value. `parse` makes it from text; the message of its ValueError continues a sentence that begins
    with the variable's name. `is_secret`: the value is never shown."""

    words: str
    parse: Callable[[str], Any]
    is_secret: bool = False


@dataclass(frozen=True)
class Variable:
    """An environment variable; `shown` is its default in words, where the value itself would say too little."""

    name: str
    kind: Kind
    meaning: str
    default: str = ""
    shown: str = ""
    is_required: bool = False

    def read(self, env: Mapping[str, str], is_needed: bool = False) -> Any:
        """The value; an empty or blank variable counts as absent. Raises ConfigError."""
        text = env.get(self.name, "")
        if (self.is_required or is_needed) and not text.strip():
            held = self.kind.words if self.is_required else self.meaning
            raise ConfigError(f"{self.name} is not set: it must hold {held}.")
        try:
            return self.kind.parse(text if text.strip() else self.default)
        except ValueError as error:
            raise ConfigError(f"{self.name} {error}") from None


def _must_be(words: str, text: str) -> ValueError:
    return ValueError(f"must be {words}, not {text!r}.")


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE + FALSE:
        raise _must_be("true or false", text)
    return word in TRUE


def _log_level(text: str) -> str:
    level = text.strip().lower()
    level = "warn" if level == "warning" else level
    if level not in LEVELS:
        raise _must_be(f"one of {', '.join(LEVELS)}", text)
    return level


def _whole_number(text: str, least: int = 0) -> int:
    if not (re.fullmatch("[0-9]{1,9}", text.strip(), re.ASCII) and int(text) >= least):
        raise _must_be(f"a whole number from {least} to {LARGEST_NUMBER}", text)
    return int(text)


def _at_least_one(text: str) -> int:
    return _whole_number(text, least=1)


def _seconds(text: str) -> timedelta:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text.strip(), re.ASCII):
        raise _must_be(f"a number of seconds from 0 to {LARGEST_NUMBER}", text)
    return timedelta(seconds=float(text))


def _web_address(text: str) -> str:
    url = text.strip()
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not (is_usable and url.isascii() and url.isprintable() and " " not in url):
        raise _must_be("an http or https address", url)
    return url.rstrip("/")


def _web_addresses(text: str) -> tuple[str, ...]:
    return tuple(_web_address(address) for address in _list(text)) if text.strip() else ()


def _list(text: str) -> tuple[str, ...]:
    """The items between commas, without empty ones."""
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not items:
        raise ValueError("names nothing between its commas.")
    return items


def _origins(text: str) -> tuple[str, ...]:
    """Origins in the spelling of browsers: any other would never match."""
    for origin in (origins := _list(text)):
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+", origin):
            raise ValueError(f"names {origin!r}, which is no origin: write https://example.com or *.")
    return origins


def _algorithms(text: str) -> tuple[str, ...]:
    """Asymmetric algorithms only: with HS256 the public key, which everyone can fetch, would sign tokens."""
    for algorithm in (algorithms := _list(text)):
        if algorithm not in PUBLIC_KEY_ALGORITHMS:
            raise ValueError(f"names {algorithm!r}, which is no algorithm with a public key.")
    return algorithms


def _database_url(text: str) -> str:
    """The address of the database. An error does not quote it, since it holds a password."""
    try:
        port = str(conninfo_to_dict(text).get("port") or "")
    except psycopg.ProgrammingError:
        port = "none"
    if not all(one.strip().isdigit() or not one for one in port.split(",")):
        raise ValueError(
            "is no address of a Postgres; write postgresql://user:password@host:5432/database, with what is"
            " special in a password as %40 and the like."
        )
    return text


def _secret_key(text: str) -> str:
    if len(text) < SHORTEST_KEY:
        raise ValueError(f"is too short: it needs {SHORTEST_KEY} characters or more.")
    return text


def _header_key(text: str) -> str | None:
    """A key that is sent in a header; the line break at the end of a file with the secret is removed."""
    key = text.strip()
    if not all(32 <= ord(character) < 127 for character in key):
        raise ValueError("must be one line of printable ASCII.")
    return key or None


def _admin_key(text: str) -> str | None:
    """The administrator's key. An error does not quote it."""
    if text and len(text) < SHORTEST_ADMIN_KEY:
        raise ValueError(
            f"is too short: it needs {SHORTEST_ADMIN_KEY} characters or more; make one with: openssl rand -hex 32"
        )
    return text or None


def _organizations(text: str) -> tuple[str, ...]:
    return _list(text) if text.strip() else ()


def _text(text: str) -> str:
    return text.strip()


def _text_or_none(text: str) -> str | None:
    return text or None


TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
PUBLIC_KEY_ALGORITHMS = {f"{family}{bits}" for family in ("ES", "RS", "PS") for bits in (256, 384, 512)} | {
    "EdDSA"
}

TRUTH = Kind("true or false", _truth)
LOG_LEVEL = Kind(f"one of {', '.join(LEVELS)}", _log_level)
WHOLE_NUMBER = Kind("a whole number, 0 or more", _whole_number)
AT_LEAST_ONE = Kind("a whole number, 1 or more", _at_least_one)
SECONDS = Kind("a number of seconds, 0 or more", _seconds)
WEB_ADDRESS = Kind("an http or https address", _web_address)
ADDRESSES = Kind("http or https addresses, separated by commas", _web_addresses)
ORIGINS = Kind("origins, separated by commas", _origins)
ALGORITHMS = Kind("names of algorithms, separated by commas", _algorithms)
TEXT = Kind("text", _text)
FOLDER = Kind("a folder", _text_or_none)
POSTGRES = Kind("the address of a Postgres 15 or newer", _database_url, is_secret=True)
SECRET_KEY = Kind(f"a random string of {SHORTEST_KEY} characters or more", _secret_key, is_secret=True)
ADMIN_KEY = Kind(f"a random string of {SHORTEST_ADMIN_KEY} characters or more", _admin_key, is_secret=True)
ORGANIZATIONS = Kind("names of organizations, separated by commas", _organizations)
HEADER_KEY = Kind("a key, one line of printable ASCII", _header_key, is_secret=True)


def _setting(name: str, kind: Kind, meaning: str, **words: Any) -> Any:
    """A field of Config that holds the variable of this name."""
    variable = Variable(name, kind, meaning, **words)
    preset = {} if variable.is_required else {"default": kind.parse(variable.default)}
    return field(**preset, repr=not kind.is_secret, metadata={"variable": variable})


@dataclass(frozen=True)
class Config:
    """What the variables hold. Each field names its variable, its kind, what it means, and the default."""

    database_url: str = _setting(
        "DATABASE_URL",
        POSTGRES,
        "the database; PgBouncer in transaction mode may stand in between",
        is_required=True,
    )
    secret_key: str = _setting(
        "KELPIE_SECRET_KEY",
        SECRET_KEY,
        "encrypts webhooks' keys and signing secrets; `NEW,OLD` while it is being changed",
        is_required=True,
    )
    admin_key: str | None = _setting(
        "KELPIE_ADMIN_KEY", ADMIN_KEY, "the key of the administrator, who makes users and keys"
    )
    log_level: str = _setting(
        "KELPIE_LOG_LEVEL",
        LOG_LEVEL,
        "nothing below it is logged; in any case, and `warning` is `warn`",
        default="info",
    )
    bind: str = _setting("KELPIE_BIND", TEXT, "address and port of the API", default="0.0.0.0:8080")
    proxies: int = _setting(
        "KELPIE_PROXIES",
        WHOLE_NUMBER,
        "proxies before the API, each of which adds its client's address to `X-Forwarded-For`; 0: that header is"
        " not believed",
        default="0",
    )
    public_urls: tuple[str, ...] = _setting(
        "KELPIE_PUBLIC_URL",
        ADDRESSES,
        "where clients reach the API; webhooks to it are refused",
    )
    web_processes: int = _setting(
        "WEB_CONCURRENCY", AT_LEAST_ONE, "processes of one gunicorn, or of one container of the API", default="2"
    )
    max_waiters: int = _setting(
        "KELPIE_MAX_WAITERS",
        WHOLE_NUMBER,
        "requests of one process that wait for work at the same time",
        default="1000",
    )
    max_waiters_of_a_project: int = _setting(
        "KELPIE_MAX_WAITERS_PER_PROJECT",
        WHOLE_NUMBER,
        "of these, requests of one user's project; 0: no limit of its own",
        default="800",
    )
    max_readers: int = _setting(
        "KELPIE_MAX_READERS",
        WHOLE_NUMBER,
        "requests of one process that wait for output of jobs at the same time",
        default="100",
    )
    max_output_gibibytes: int = _setting(
        "KELPIE_MAX_OUTPUT_GIB",
        AT_LEAST_ONE,
        "GiB of output that are kept of each user's project; of more the attempts that ended first go",
        default="10",
    )
    metrics_folder: str | None = _setting(
        "PROMETHEUS_MULTIPROC_DIR",
        FOLDER,
        "where the processes of one gunicorn add up what they count",
        shown="made in /dev/shm at the start",
    )
    cors_origins: tuple[str, ...] = _setting(
        "KELPIE_CORS_ORIGINS", ORIGINS, "origins of web pages that may call from a browser; `*`: all", default="*"
    )
    pages_over_http: bool = _setting(
        "KELPIE_PAGES_OVER_HTTP",
        TRUTH,
        "whether people may sign in at the pages without https from other machines; their keys can be read on the"
        " way",
        default="false",
    )
    one_time_sign_in: bool = _setting(
        "KELPIE_ONE_TIME_SIGN_IN",
        TRUTH,
        "whether a browser of this machine may begin a session with a token that `kelpie dev up` put into the"
        " database",
        default="false",
    )
    webhook_allow_private: bool = _setting(
        "KELPIE_WEBHOOK_ALLOW_PRIVATE",
        TRUTH,
        "whether webhooks may go to loopback and private addresses",
        default="false",
    )
    max_bans: int = _setting(
        "KELPIE_MAX_BANS_PER_MACHINE",
        WHOLE_NUMBER,
        "failures of different jobs, by its own fault, after which a machine of a group is reallocated; 0: never",
        default="5",
    )
    max_open_jobs: int = _setting(
        "KELPIE_MAX_OPEN_JOBS",
        WHOLE_NUMBER,
        "jobs of each user's project that may be pending or running at the same time; 0: any number",
        default="2000000",
    )
    max_open_mebibytes: int = _setting(
        "KELPIE_MAX_OPEN_MIB",
        WHOLE_NUMBER,
        "MiB that the definitions of these jobs may have together; 0: any number",
        default="20480",
    )
    max_machines: int = _setting(
        "KELPIE_MAX_MACHINES",
        WHOLE_NUMBER,
        "machines that are remembered of each user's project; callers choose their names; 0: any number",
        default="10000",
    )
    salad_api_key: str | None = _setting(
        "SALAD_API_KEY",
        HEADER_KEY,
        "the coordinator's own key at Salad, which scaling rules and reallocations need",
    )
    salad_api_url: str = _setting(
        "SALAD_API_URL", WEB_ADDRESS, "where keys are proven", default="https://api.salad.com/api/public"
    )
    salad_jwks_url: str = _setting(
        "SALAD_JWKS_URL",
        WEB_ADDRESS,
        "where the keys of tokens come from",
        default="https://matrix-rest-api.salad.com/.well-known/workload-jwks.json",
    )
    proven_for: timedelta = _setting(  # noqa: RUF009 - it makes a field
        "KELPIE_SALAD_KEY_TTL_S", SECONDS, "how long a Salad API key is believed", default="300"
    )
    refused_for: timedelta = _setting(  # noqa: RUF009 - it makes a field
        "KELPIE_SALAD_KEY_REFUSED_TTL_S", SECONDS, "how long a refused one is not asked about again", default="15"
    )
    organizations: tuple[str, ...] = _setting(
        "KELPIE_ORGANIZATIONS",
        ORGANIZATIONS,
        "organizations at Salad that may call with their Salad API keys and tokens",
        shown="all",
    )
    jwt_issuer: str = _setting(
        "KELPIE_JWT_ISSUER", TEXT, "the issuer of tokens that are accepted", default="https://matrix-api.salad.io"
    )
    jwt_algorithms: tuple[str, ...] = _setting(
        "KELPIE_JWT_ALGORITHMS", ALGORITHMS, "how they are signed; with a public key only", default="ES256"
    )
    jwt_strict: bool = _setting(
        "KELPIE_JWT_STRICT",
        TRUTH,
        "whether a token's group and machine must be those of the request",
        default="true",
    )
    jwt_can_submit: bool = _setting(
        "KELPIE_JWT_CAN_SUBMIT", TRUTH, "whether a token may submit, cancel and scale", default="false"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str], needed: Collection[str] = ()) -> Config:
        """Read all settings; of those that may be absent not the `needed` ones. Raises ConfigError with a sentence
        for each variable that is missing or wrong."""
        return cls(**_read(env, fields(cls), needed))


VARIABLES: dict[str, Variable] = {
    variable.name: variable for variable in (setting.metadata["variable"] for setting in fields(Config))
}


class DatabaseConfig(NamedTuple):
    """The settings of programs that do no more than to work on the database."""

    database_url: str
    log_level: str

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> DatabaseConfig:
        """As Config.from_env, without a look at the other variables."""
        return cls(**_read(env, [setting for setting in fields(Config) if setting.name in cls._fields]))


def _read(env: Mapping[str, str], settings: Iterable[Field[Any]], needed: Collection[str] = ()) -> dict[str, Any]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for setting in settings:
        variable = setting.metadata["variable"]
        try:
            values[setting.name] = variable.read(env, variable.name in needed)
        except ConfigError as problem:
            problems += problem.sentences
    if problems:
        raise ConfigError(*problems)
    return values
