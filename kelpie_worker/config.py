"""Every environment variable of the worker, read once into one frozen object (contract section 7)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

Number = TypeVar("Number", int, float)


class ConfigError(Exception):
    """A setting is missing or wrong; the sentence names the variable."""


@dataclass(frozen=True)
class LegacyDirectories:
    """Where jobs of the older generation find their files; absolute paths."""

    input: str
    checkpoint: str
    output: str


@dataclass(frozen=True)
class WatchTimes:
    """When a changed directory counts as quiet; seconds. No `max_wait`: wait as long as it takes."""

    debounce: float
    stability: float
    max_wait: float | None


@dataclass(frozen=True)
class Config:
    api_url: str
    auth: Mapping[str, str]  # the request headers that say who is calling
    machine_id: str  # empty: the state file knows one
    container_group_id: str
    state_file: str
    log_level: str
    directories: LegacyDirectories
    watch: WatchTimes
    max_retries: int
    poll_interval: float
    shutdown_grace: float
    aws_region: str | None
    report_output: int  # bytes of the command's output that its report carries
    secrets: tuple[str, ...]  # never to be seen in a log

    def __repr__(self) -> str:
        return f"Config(api_url={self.api_url!r}, container_group_id={self.container_group_id!r})"


LARGEST_OUTPUT = 65_536  # bytes; the coordinator keeps no more
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "silent")
_SECRET_NAMES = ("KELPIE_API_KEY", "SALAD_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def load(environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check the settings. Raises ConfigError with one sentence that names the variable."""
    read = _Reader(environment)
    max_wait = read.milliseconds("FILE_WATCHER_MAX_WAIT_MS", 5000)
    return Config(
        api_url=_api_url(read.text("KELPIE_API_URL", "https://kelpie.saladexamples.com")),
        auth=auth_headers(environment),
        machine_id=read.text("SALAD_MACHINE_ID", ""),
        container_group_id=_required(read, "SALAD_CONTAINER_GROUP_ID", "the queue to take jobs from"),
        state_file=read.path("KELPIE_STATE_FILE", "./kelpie-state.json"),
        log_level=read.choice("KELPIE_LOG_LEVEL", LOG_LEVELS, "info"),
        directories=LegacyDirectories(
            input=read.path("INPUT_DIR", "/input"),
            checkpoint=read.path("CHECKPOINT_DIR", "/checkpoint"),
            output=read.path("OUTPUT_DIR", "/output"),
        ),
        watch=WatchTimes(
            debounce=read.milliseconds("FILE_WATCHER_DEBOUNCE_MS", 0),
            stability=read.milliseconds("FILE_WATCHER_STABILITY_CHECK_MS", 50),
            max_wait=max_wait or None,
        ),
        max_retries=read.integer("MAX_RETRIES", 3),
        poll_interval=read.seconds("HEARTBEAT_INTERVAL_S", 10),
        shutdown_grace=read.seconds("KELPIE_SHUTDOWN_GRACE_S", 25),
        aws_region=read.text("AWS_REGION", "") or read.text("AWS_DEFAULT_REGION", "") or None,
        report_output=_at_most(LARGEST_OUTPUT, read.integer("KELPIE_REPORT_OUTPUT", 0), "KELPIE_REPORT_OUTPUT"),
        secrets=tuple(environment[name] for name in _SECRET_NAMES if environment.get(name)),
    )


def auth_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """The headers of the first of the ways to authenticate, in the contract's order, that is set up."""
    if key := environment.get("KELPIE_API_KEY"):
        return {"X-Kelpie-Key": key}
    if key := environment.get("SALAD_API_KEY"):
        return {
            "Salad-Api-Key": key,
            "Salad-Organization": _either(environment, "SALAD_ORGANIZATION", "SALAD_ORGANIZATION_NAME"),
            "Salad-Project": _either(environment, "SALAD_PROJECT", "SALAD_PROJECT_NAME"),
        }
    raise ConfigError("Set KELPIE_API_KEY, or SALAD_API_KEY with SALAD_ORGANIZATION and SALAD_PROJECT.")


class _Reader:
    """One method per kind of value; an empty variable counts as absent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str) -> str:
        value = self._environment.get(name) or default
        if any(ord(character) < 32 for character in value):
            raise ConfigError(f"{name} must not contain control characters.")
        return value

    def path(self, name: str, default: str) -> str:
        return os.path.normpath(Path.cwd() / self.text(name, default))

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
        return value

    def integer(self, name: str, default: int) -> int:
        return self._number(name, default, int, "a whole number of 0 or more")

    def seconds(self, name: str, default: float) -> float:
        return self._number(name, default, float, "a number of seconds of 0 or more")

    def milliseconds(self, name: str, default: float) -> float:
        return self._number(name, default, float, "a number of milliseconds of 0 or more") / 1000

    def _number(self, name: str, default: Number, parse: Callable[[str], Number], meaning: str) -> Number:
        raw = self._environment.get(name)
        if not raw:
            return default
        try:
            value = parse(raw)
        except ValueError:
            value = parse("-1")
        if not 0 <= value < 1e9:
            raise ConfigError(f"{name} must be {meaning}, not {raw!r}.")
        return value


def _at_most(limit: int, value: int, name: str) -> int:
    if value > limit:
        raise ConfigError(f"{name} must be at most {limit}, not {value}.")
    return value


def _required(read: _Reader, name: str, meaning: str) -> str:
    value = read.text(name, "")
    if not value:
        raise ConfigError(f"{name} must be set: it names {meaning}.")
    return value


def _either(environment: Mapping[str, str], name: str, alias: str) -> str:
    value = environment.get(name) or environment.get(alias)
    if not value:
        raise ConfigError(f"{name} must be set where SALAD_API_KEY is used.")
    return value


def _api_url(value: str) -> str:
    url = value if "://" in value else f"https://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"KELPIE_API_URL must be an http or https address, not {value!r}.")
    return url.rstrip("/")
