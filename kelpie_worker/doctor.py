"""`kelpie doctor`: checks whether everything that a job needs is there; each line says ok, or what to do."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from kelpie_worker import config
from kelpie_worker.config import Config, ConfigError, TokenUse
from kelpie_worker.coordinator.client import Api, Greeting, Unreachable
from kelpie_worker.s3 import probe
from kelpie_worker.s3.client import connect
from kelpie_worker.s3.errors import Misconfigured
from kelpie_worker.s3.probe import CheckFailed
from kelpie_worker.salad.imds import Imds, ImdsUnavailable, whereabouts_of
from kelpie_worker.state_file import is_free
from kelpie_worker.system.authorities import UnusableAuthorities
from kelpie_worker.system.proxies import reached

_FEWEST_WATCHES, _FEWEST_INSTANCES = 8_192, 16
_LEAST_SPACE = 1024**3  # bytes
_LARGEST_CLOCK_DIFFERENCE = 60.0  # seconds; S3 refuses signatures that are 15 minutes off
_INOTIFY = Path("/proc/sys/fs/inotify")


@dataclass(frozen=True)
class Finding:
    subject: str
    well: bool
    words: str

    def __str__(self) -> str:
        return f"{'ok ' if self.well else 'BAD'}  {self.subject}: {self.words}"


def examine(bucket: str | None) -> int:
    """Run every check and print one line for each. Returns 0 if all passed, 1 if not."""
    well = True
    for finding in _findings(bucket or os.environ.get("KELPIE_DOCTOR_BUCKET")):
        print(finding)
        well = well and finding.well
    return 0 if well else 1


def _findings(bucket: str | None) -> Iterator[Finding]:
    try:
        settings = config.load()
    except ConfigError as error:
        yield from (Finding("settings", False, sentence) for sentence in error.sentences)
        return
    yield Finding(
        "settings", True, f"the queue is {settings.container_group_id or 'the one that the token names'}"
    )
    yield _finding("state file", lambda: _state_file(settings))
    yield _finding("metadata service", lambda: _metadata_service(settings))
    yield from _api(settings)
    yield from _bucket(settings, bucket)
    yield _finding("file watching", _file_watching)
    for directory in _directories(settings):
        yield _finding(f"disk at {directory}", partial(_disk, directory))


def _finding(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except Exception as error:  # noqa: BLE001 - any error is a finding; the other checks still run
        said = isinstance(error, CheckFailed | ConfigError | Misconfigured | UnusableAuthorities)
        words = str(error) if said else f"{type(error).__name__}: {error}"
        return Finding(subject, False, words)


# --- Salad and Kelpie -----------------------------------------------------------------------------------


def _metadata_service(settings: Config) -> str:
    if settings.imds_url is None:
        return "not asked: SALAD_MACHINE_ID and SALAD_IMDS_URL are absent, so that this is no machine of Salad's"
    imds = Imds(settings.imds_url)
    try:
        imds.is_ready()
        if settings.auth.token is TokenUse.NOTHING:
            return f"{settings.imds_url} answers"
        token = imds.token()
    except ImdsUnavailable as error:
        raise CheckFailed(
            f"{error}; on a machine of Salad's {settings.imds_url} must answer (SALAD_IMDS_URL)"
        ) from error
    if not settings.container_group_id and not whereabouts_of(token).container_group_id:
        raise CheckFailed("the token names no container group: set SALAD_CONTAINER_GROUP_ID")
    return f"{settings.imds_url} answers and issues a token"


def _api(settings: Config) -> Iterator[Finding]:
    """What one request to the API shows: whether it accepts this worker's key, and how far the clocks differ."""
    yield _finding("way to the API", lambda: _way_to_the_api(settings))
    greetings: list[Greeting] = []

    def greet() -> str:
        greetings.append(_greeting(settings))
        return _accepted(settings, greetings[0])

    yield _finding("API", greet)
    if greetings:
        yield _finding("clock", lambda: _clock(greetings[0]))


def _way_to_the_api(settings: Config) -> str:
    api = Api(settings)
    if settings.api_url.startswith("https:"):
        api.authorities.check()
    return reached(settings.api_url, api.proxy, api.authorities)


def _greeting(settings: Config) -> Greeting:
    api = Api(settings)
    try:
        return api.greet()
    except Unreachable as error:
        raise CheckFailed(
            f"{settings.api_url} does not answer: check KELPIE_API_URL and the network ({error})"
        ) from error


def _accepted(settings: Config, greeting: Greeting) -> str:
    if greeting.status in (400, 401, 403):
        raise CheckFailed(f"{settings.api_url} refuses {_credential(settings)} with {greeting.status}: check it")
    if greeting.status != 200:
        raise CheckFailed(
            f"{settings.api_url} answers with {greeting.status}: is it the Kelpie API (KELPIE_API_URL)?"
        )
    extensions = ", ".join(sorted(greeting.extensions)) or "none"
    return f"{settings.api_url} accepts {_credential(settings)}; extensions: {extensions}"


def _credential(settings: Config) -> str:
    """The name of the credential that the worker sends to the API."""
    if settings.auth.token is TokenUse.BEARER:
        return "the token of the metadata service with SALAD_PROJECT"
    return "KELPIE_API_KEY" if "X-Kelpie-Key" in settings.auth.headers else "SALAD_API_KEY"


def _clock(greeting: Greeting) -> str:
    try:
        api_time = parsedate_to_datetime(greeting.date)
    except ValueError:
        return "the API does not tell the time"
    difference = (datetime.now(UTC) - api_time).total_seconds()
    if abs(difference) > _LARGEST_CLOCK_DIFFERENCE:
        raise CheckFailed(
            f"{difference:+.0f} s against the API: set this machine's clock, or storage refuses signatures"
        )
    return f"within {max(1, round(abs(difference)))} s of the API's"


# --- the bucket -----------------------------------------------------------------------------------------


def _bucket(settings: Config, place: str | None) -> Iterator[Finding]:
    yield _finding("storage settings", lambda: probe.settings(settings.aws_region))
    if not place:
        yield _finding("storage", lambda: probe.storage(settings.aws_region))
        yield Finding("bucket", True, "not tried: name one with --bucket or KELPIE_DOCTOR_BUCKET")
        return
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    if not bucket or ":" in bucket:
        yield Finding("bucket", False, f"{place} names no bucket: write NAME, NAME/PREFIX or s3://NAME/PREFIX")
        return
    key = f"{prefix.rstrip('/')}/".lstrip("/") + f".kelpie-doctor-{uuid.uuid4().hex}"
    try:
        client = connect(settings.aws_region)
    except Misconfigured as error:
        yield Finding("bucket", False, str(error))
        return
    written = _finding(f"bucket {bucket}, writing", lambda: probe.write(client, bucket, key))
    yield written
    if not written.well:
        return
    yield _finding(f"bucket {bucket}, reading", lambda: probe.read(client, bucket, key))
    yield _finding(f"bucket {bucket}, conditional writes", lambda: probe.conditional(client, bucket, key))
    yield _finding(f"bucket {bucket}, deleting", lambda: probe.delete(client, bucket, key))


# --- this machine ---------------------------------------------------------------------------------------


def _state_file(settings: Config) -> str:
    """Checks the lock only. Opening the file as a worker does would move a damaged one aside.

    A worker that runs with it is well: its container is where a trouble is looked into.
    """
    try:
        if not is_free(Path(settings.state_file)):
            return f"a worker runs with {settings.state_file}; another one needs its own KELPIE_STATE_FILE"
    except OSError as error:
        raise CheckFailed(f"{settings.state_file} cannot be used: {error.strerror} (KELPIE_STATE_FILE)") from error
    return f"no worker uses {settings.state_file}"


def _file_watching() -> str:
    """Never fails: scans decide what is uploaded, inotify only makes them run sooner."""
    if not _INOTIFY.exists():
        return "there is no inotify; directories are scanned"
    watches, instances = (int((_INOTIFY / f"max_user_{what}").read_text()) for what in ("watches", "instances"))
    few = watches < _FEWEST_WATCHES or instances < _FEWEST_INSTANCES
    advice = "; where they run out, changes are seen by scans only" if few else ""
    return f"directories are scanned, and inotify says when: {watches} watches, {instances} instances{advice}"


def _directories(settings: Config) -> list[str]:
    """The directories that a job may write to, as far as they are known without a job; one for each disk."""
    state = next(str(above) for above in Path(settings.state_file).parents if _is_directory(str(above)))
    wanted = [state, str(Path.cwd()), *vars(settings.directories).values(), tempfile.gettempdir()]
    disks: dict[int, str] = {}
    for path in wanted:
        if _is_directory(path):
            disks.setdefault(Path(path).stat().st_dev, path)
    return list(disks.values())


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - it answers False instead of raising PermissionError


def _disk(directory: str) -> str:
    free = shutil.disk_usage(directory).free
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        raise CheckFailed(f"nothing can be written ({error.strerror}): let this user write there") from error
    if free < _LEAST_SPACE:
        raise CheckFailed(f"{free / 1024**2:.0f} MiB are free: make room, or mount a larger disk")
    return f"{free / 1024**3:.1f} GiB are free"
