"""Every environment variable of the worker, read once into one frozen object (docs/worker.md, Settings)."""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from kelpie_worker.limits import LARGEST_OUTPUT, LONGEST_NAME

Value = TypeVar("Value")

LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "silent")


TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
NEVER = "-1"
LARGEST_NUMBER = 999_999_999


class Variable(NamedTuple):
    default: str
    meaning: str
    shown: str = ""  # in place of an empty default


VARIABLES = {
    "KELPIE_API_URL": Variable("https://kelpie.saladexamples.com", "The Kelpie API; without a scheme: https."),
    "KELPIE_API_KEY": Variable("", "Authorization, first choice: a key of the Kelpie API."),
    "SALAD_API_KEY": Variable(
        "", "Authorization, second choice: a key of the Salad API, with organization and project."
    ),
    "SALAD_ORGANIZATION": Variable(
        "", "The Salad organization; SALAD_ORGANIZATION_NAME is read too.", "from the metadata service"
    ),
    "SALAD_PROJECT": Variable(
        "",
        "The Salad project; SALAD_PROJECT_NAME is read too. Alone it chooses the third authorization: a token of"
        " the metadata service.",
    ),
    "SALAD_CONTAINER_GROUP_ID": Variable(
        "", "The queue to take jobs from. Required; Salad sets it, and a token names it too.", "set by Salad"
    ),
    "SALAD_MACHINE_ID": Variable(
        "",
        "This machine. Salad sets it, or a token names it; elsewhere an id is made and kept in the state file.",
        "set by Salad",
    ),
    "SALAD_IMDS_URL": Variable(
        "http://169.254.169.254", "Salad's metadata service; not asked where neither this nor a machine id is set."
    ),
    "KELPIE_STATE_FILE": Variable(
        "./kelpie-state.json", "What outlives the worker. Several workers on a machine need one each."
    ),
    "KELPIE_RUNTIME_DIR": Variable("", "Where the workers on a machine find each other.", "/run/kelpie"),
    "KELPIE_LOG_LEVEL": Variable(
        "info", f"One of {', '.join(LOG_LEVELS)}, in any case; warning is warn. Nothing below it is logged."
    ),
    "KELPIE_SHUTDOWN_GRACE_S": Variable("25", "Seconds between SIGTERM and the end."),
    "KELPIE_RECREATE_BETWEEN_JOBS": Variable(
        "false", "After a job and its uploads: have the container made anew, and exit."
    ),
    "KELPIE_REPORT_OUTPUT": Variable(
        "0", f"So many last bytes of a command's output go with its report; at most {LARGEST_OUTPUT}."
    ),
    "HEARTBEAT_INTERVAL_S": Variable("10", "Seconds between two questions for work, where the API cannot wait."),
    "MAX_TIME_WITH_NO_WORK_S": Variable(
        "0", "After so many seconds without work the instance is reallocated and the worker exits; 0 or -1: never."
    ),
    "MAX_JOB_FAILURES": Variable(
        "3",
        "After so many failed jobs the instance is reallocated, those that fail by their own fault left out;"
        " 0 or -1: never.",
    ),
    "MAX_RETRIES": Variable("3", "How often one operation on the bucket is repeated."),
    "FILE_WATCHER_DEBOUNCE_MS": Variable(
        "0", "Wait so long after a change before looking whether files are stable."
    ),
    "FILE_WATCHER_STABILITY_CHECK_MS": Variable("50", "Files that stay the same for so long are stable."),
    "FILE_WATCHER_MAX_WAIT_MS": Variable(
        "5000", "Upload after so long even if they are not; 0 or -1: as long as it takes."
    ),
    "KELPIE_DOCTOR_BUCKET": Variable(
        "", "For kelpie doctor alone: NAME/PREFIX of a place to try, as its option --bucket."
    ),
    "INPUT_DIR": Variable("/input", "Input of jobs of the older generation; passed to every command."),
    "CHECKPOINT_DIR": Variable("/checkpoint", "Their checkpoint."),
    "OUTPUT_DIR": Variable("/output", "Their output."),
    "AWS_REGION": Variable("", "The bucket's region; AWS_DEFAULT_REGION is read too."),
    "AWS_*": Variable(
        "",
        "As boto3 reads them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_PROFILE, ...; so are"
        " ~/.aws/config and ~/.aws/credentials.",
    ),
    "HTTPS_PROXY": Variable("", "The proxy for the API and the bucket; HTTP_PROXY and ALL_PROXY are read too."),
    "NO_PROXY": Variable("", "What is reached directly: hosts, domains, addresses and networks, with commas."),
    "SSL_CERT_FILE": Variable(
        "",
        "The certificate authorities for the API and the bucket; REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE come first,"
        " and for the bucket alone AWS_CA_BUNDLE.",
        "Mozilla's authorities",
    ),
    "SSL_CERT_DIR": Variable(
        "",
        "Directories of such authorities, with colons; read together with SSL_CERT_FILE.",
        "Mozilla's authorities",
    ),
}
_DECIMAL = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_SECRET_NAMES = ("KELPIE_API_KEY", "SALAD_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class ConfigError(Exception):
    """Settings are missing or wrong; a sentence for each names its variable."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


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


class TokenUse(StrEnum):
    """What the token of the metadata service is needed for."""

    NOTHING = "nothing"
    ORGANIZATION = "organization"  # its name, beside a key of the Salad API
    BEARER = "bearer"  # it is the authorization


@dataclass(frozen=True)
class Authorization:
    """The request headers that say which caller sends them, and what a token must add to them."""

    headers: Mapping[str, str]
    token: TokenUse = TokenUse.NOTHING


@dataclass(frozen=True)
class InstanceLimits:
    """When the worker leaves its instance. None: never for that reason."""

    max_failures: int | None = None
    max_idle: float | None = None  # seconds without work
    one_job: bool = False  # the container is made anew after each job


@dataclass(frozen=True)
class Config:
    api_url: str
    auth: Authorization
    imds_url: str | None  # None: this is no machine of Salad's
    machine_id: str  # empty: the token names it, or the state file knows one
    container_group_id: str  # empty: the token names it
    state_file: str
    runtime_directory: str
    log_level: str
    directories: LegacyDirectories
    watch: WatchTimes
    stay: InstanceLimits
    max_retries: int
    poll_interval: float
    shutdown_grace: float
    aws_region: str | None
    report_output: int  # bytes of the command's output that its report carries
    secrets: tuple[str, ...]  # never to be seen in a log

    def __repr__(self) -> str:
        return f"Config(api_url={self.api_url!r}, container_group_id={self.container_group_id!r})"


def load(environment: Mapping[str, str] = os.environ) -> Config:
    """Read and check the settings. Raises ConfigError, with a sentence for each that is missing or wrong."""
    read = _Reader(environment)
    imds_url = read.value(lambda: _imds_url(read, environment), None)
    auth = read.value(lambda: authorization(environment, _is_on_salad(environment)), Authorization({}))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        read.value(partial(_check_endpoint, name, environment.get(name)), None)
    config = Config(
        api_url=read.value(lambda: _web_address("KELPIE_API_URL", read.text("KELPIE_API_URL"), "https"), ""),
        auth=auth,
        imds_url=imds_url,
        machine_id=read.identity("SALAD_MACHINE_ID"),
        container_group_id=_container_group(read, named_by_token=auth.token is TokenUse.BEARER),
        state_file=_file(read, "KELPIE_STATE_FILE"),
        runtime_directory=read.path("KELPIE_RUNTIME_DIR") or default_runtime_directory(),
        log_level=read.log_level("KELPIE_LOG_LEVEL"),
        directories=LegacyDirectories(
            input=read.path("INPUT_DIR"),
            checkpoint=read.path("CHECKPOINT_DIR"),
            output=read.path("OUTPUT_DIR"),
        ),
        watch=WatchTimes(
            debounce=read.milliseconds("FILE_WATCHER_DEBOUNCE_MS"),
            stability=read.milliseconds("FILE_WATCHER_STABILITY_CHECK_MS"),
            max_wait=read.milliseconds_or_never("FILE_WATCHER_MAX_WAIT_MS"),
        ),
        stay=InstanceLimits(
            max_failures=read.integer_or_never("MAX_JOB_FAILURES"),
            max_idle=read.seconds_or_never("MAX_TIME_WITH_NO_WORK_S"),
            one_job=read.truth("KELPIE_RECREATE_BETWEEN_JOBS"),
        ),
        max_retries=read.integer("MAX_RETRIES"),
        poll_interval=read.seconds("HEARTBEAT_INTERVAL_S"),
        shutdown_grace=read.seconds("KELPIE_SHUTDOWN_GRACE_S"),
        aws_region=read.text("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
        report_output=read.integer("KELPIE_REPORT_OUTPUT", at_most=LARGEST_OUTPUT),
        secrets=tuple(environment[name] for name in _SECRET_NAMES if environment.get(name)),
    )
    if read.problems:
        raise ConfigError(*read.problems)
    return config


def authorization(environment: Mapping[str, str], on_salad: bool = False) -> Authorization:
    """The first way to authenticate that is set up (docs/worker.md, Settings). Raises ConfigError."""
    if key := _credential(environment, "KELPIE_API_KEY"):
        return Authorization({"X-Kelpie-Key": key})
    organization = _salad_name(environment, "SALAD_ORGANIZATION")
    project = _salad_name(environment, "SALAD_PROJECT")
    named = {"Salad-Organization": organization} if organization else {}
    key = _credential(environment, "SALAD_API_KEY")
    if not key and not (on_salad and project):
        raise ConfigError(
            "Set KELPIE_API_KEY, or SALAD_API_KEY with SALAD_ORGANIZATION and SALAD_PROJECT, or on a machine of"
            " Salad's SALAD_PROJECT alone."
        )
    if not key:
        return Authorization({"Salad-Project": project, **named}, TokenUse.BEARER)
    missing = []
    if not project:
        missing.append("SALAD_PROJECT must be set where SALAD_API_KEY is used.")
    if not organization and not on_salad:
        missing.append(
            "SALAD_ORGANIZATION must be set where SALAD_API_KEY is used and no metadata service knows it."
        )
    if missing:
        raise ConfigError(*missing)
    headers = {"Salad-Api-Key": key, "Salad-Project": project, **named}
    return Authorization(headers, TokenUse.NOTHING if organization else TokenUse.ORGANIZATION)


def default_runtime_directory() -> str:
    """One for all workers of a user on this machine: in /run, or where that is closed among temporary files."""
    if os.access("/run/kelpie" if Path("/run/kelpie").exists() else "/run", os.W_OK | os.X_OK):
        return "/run/kelpie"
    return str(Path(tempfile.gettempdir(), f"kelpie-{os.getuid()}"))


class _Reader:
    """One method per kind of value. What is wrong is noted in `problems`, and something else stands in for it. A
    variable that is empty or blank counts as absent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def value(self, read: Callable[[], Value], otherwise: Value) -> Value:
        """What `read` returns; its ConfigError is noted."""
        try:
            return read()
        except ConfigError as problem:
            self.problems += problem.sentences
            return otherwise

    def text(self, name: str) -> str:
        value = self._environment.get(name, "")
        value = value if value.strip() else VARIABLES[name].default
        if any(ord(character) < 32 for character in value):
            return self._refuse(f"{name} must not contain control characters.", VARIABLES[name].default)
        if not _is_utf8(value):
            return self._refuse(f"{name} must be UTF-8.", VARIABLES[name].default)
        return value

    def identity(self, name: str) -> str:
        value = self.text(name)
        if len(value) > LONGEST_NAME:
            return self._refuse(f"{name} must have at most {LONGEST_NAME} characters.", value[:LONGEST_NAME])
        return value

    def path(self, name: str) -> str:
        value = self.text(name)
        return os.path.normpath(Path.cwd() / value) if value else ""

    def log_level(self, name: str) -> str:
        level = self._word(name)
        level = "warn" if level == "warning" else level
        if level not in LOG_LEVELS:
            return self._must_be(name, f"one of {', '.join(LOG_LEVELS)}", "info")
        return level

    def truth(self, name: str) -> bool:
        word = self._word(name)
        if word not in TRUE + FALSE:
            return self._must_be(name, "true or false", False)
        return word in TRUE

    def integer(self, name: str, at_most: int = LARGEST_NUMBER) -> int:
        return int(self._number(name, "whole number", "[0-9]{1,9}", at_most))

    def seconds(self, name: str) -> float:
        return self._number(name, "number of seconds", _DECIMAL)

    def milliseconds(self, name: str) -> float:
        return self._number(name, "number of milliseconds", _DECIMAL) / 1000

    def integer_or_never(self, name: str) -> int | None:
        """None is never, and so are 0 and -1, which users of the original write for it."""
        return int(self._number(name, "whole number", "[0-9]{1,9}", or_never=True)) or None

    def seconds_or_never(self, name: str) -> float | None:
        return self._number(name, "number of seconds", _DECIMAL, or_never=True) or None

    def milliseconds_or_never(self, name: str) -> float | None:
        return self._number(name, "number of milliseconds", _DECIMAL, or_never=True) / 1000 or None

    def _number(
        self, name: str, kind: str, form: str, at_most: int = LARGEST_NUMBER, or_never: bool = False
    ) -> float:
        """The number that is written in this form; 0 for -1, where that means never."""
        word = self._word(name)
        if or_never and word == NEVER:
            return 0
        if not re.fullmatch(form, word) or float(word) > at_most:
            words = f"a {kind} from 0 to {at_most}{', or -1 for never' if or_never else ''}"
            return self._must_be(name, words, float(VARIABLES[name].default))
        return float(word)

    def _word(self, name: str) -> str:
        return (self._environment.get(name, "").strip() or VARIABLES[name].default).lower()

    def _must_be(self, name: str, words: str, otherwise: Value) -> Value:
        return self._refuse(f"{name} must be {words}, not {self._environment[name]!r}.", otherwise)

    def _refuse(self, sentence: str, otherwise: Value) -> Value:
        self.problems.append(sentence)
        return otherwise


def _file(read: _Reader, name: str) -> str:
    return read.value(lambda: _a_file(name, read.path(name)), "")


def _a_file(name: str, path: str) -> str:
    """What is there already is one, for a damaged state file is renamed: never a device, such as /dev/null."""
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - false where we may not look
        raise ConfigError(f"{name} must name a file, and {path} is a directory or a device.")
    return path


def _is_utf8(value: str) -> bool:
    """Python keeps other bytes of the environment as half surrogate pairs, which no request can carry."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _container_group(read: _Reader, named_by_token: bool) -> str:
    problems = len(read.problems)
    value = read.identity("SALAD_CONTAINER_GROUP_ID")
    if not value and not named_by_token and len(read.problems) == problems:
        read.problems.append("SALAD_CONTAINER_GROUP_ID must be set: it names the queue to take jobs from.")
    return value


def _salad_name(environment: Mapping[str, str], name: str) -> str:
    """The short form wins over the one that Salad's machines set."""
    return _credential(environment, name) or _credential(environment, f"{name}_NAME")


def _credential(environment: Mapping[str, str], name: str) -> str:
    """Something that is sent in a header. What is wrong with it is said without showing it."""
    value = environment.get(name, "")
    if not all(33 <= ord(character) < 127 for character in value):
        raise ConfigError(f"{name} must be printable ASCII without spaces; has it a line break at its end?")
    return value


def _imds_url(read: _Reader, environment: Mapping[str, str]) -> str | None:
    url = _web_address("SALAD_IMDS_URL", read.text("SALAD_IMDS_URL"), "http")
    return url if _is_on_salad(environment) else None


def _is_on_salad(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("SALAD_IMDS_URL") or environment.get("SALAD_MACHINE_ID"))


def _check_endpoint(name: str, value: str | None) -> None:
    """Of storage, which boto3 reads itself and needs with a scheme."""
    if value and not value.lower().startswith(("http://", "https://")):
        raise ConfigError(f"{name} must begin with http:// or https://.")
    if value:
        _web_address(name, value, "https")


def _web_address(name: str, value: str, scheme: str) -> str:
    """`scheme` is meant where none is written."""
    url = value if "://" in value else f"{scheme}://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name} must be an http or https address, not {value!r}.")
    if any(character in url for character in " ?#"):
        raise ConfigError(f"{name} must have no spaces and no query: paths are appended to it.")
    return url.rstrip("/")
