"""The coordinator's API as the worker calls it; the only importer of requests.

Every call is made once; repeating it is the caller's business, for only the caller knows how long it may wait.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests

from kelpie_version import VERSION
from kelpie_worker import logs
from kelpie_worker.config import Config, ConfigError
from kelpie_worker.coordinator.credentials import Credentials, NoToken
from kelpie_worker.job import Job, Manifest, from_wire, is_whole
from kelpie_worker.limits import LONGEST_DETAIL
from kelpie_worker.logs import without_secrets
from kelpie_worker.messages import Claimed, Ending, Verdict
from kelpie_worker.system.authorities import authorities
from kelpie_worker.system.linux import boottime
from kelpie_worker.system.proxies import UnusableProxy, proxy_for

WAIT_FOR_WORK = 20  # seconds; where the server can hold the answer back until there is work
_CONNECT_TIMEOUT = 5.0
_READ_TIMEOUT = 15.0
_SHORT_READ_TIMEOUT = 3.0  # seconds, where the answer is wanted by some time
_SHORTEST_WAIT = 3  # seconds
_SHORTEST_POLL = 0.1  # seconds, though HEARTBEAT_INTERVAL_S may be 0: polling without a pause would overload both
_ENOUGH = 3  # answers to claims that name no extensions, until the server counts as one that knows none
_UNWAITED_PAUSE = 1.0  # seconds before the next claim, where an empty answer came without the wait that was asked
_VERIFICATION = re.compile(r"certificate verify failed: ([^(\])]+)")
_CREDENTIALS = {
    "X-Kelpie-Key": "KELPIE_API_KEY",
    "Salad-Api-Key": "SALAD_API_KEY, SALAD_ORGANIZATION and SALAD_PROJECT",
}
# What this worker can do besides: which parts of a heartbeat, and of its answer, it speaks.
_SPOKEN = frozenset({"phase", "progress", "output", "steer"})
_NEEDS = {"phase": "phase", "progress": "progress", "stalled": "progress", "output_bytes": "output"}
_LONGEST_WHY = 50  # characters of the word by which a stop is asked for
_STATES = frozenset({"pending", "running", "completed", "failed", "canceled"})  # of a job, at the original API


class Unreachable(Exception):
    """No usable answer: a network error, a 5xx, a refused key, invalid JSON, an answer that is not the
    coordinator's. A later try may succeed."""


class ManifestRefused(Exception):
    """The server will not take this manifest however often it is sent."""


class PieceRefused(Exception):
    """The server will not take this piece of output however often it is sent."""


class ClaimRefused(Exception):
    """The server will not answer this claim id however often it is asked: another is needed."""


@dataclass(frozen=True)
class Greeting:
    """What any answer of the server shows."""

    status: int
    extensions: frozenset[str]
    date: str  # of the answer, by the server's clock; empty if it does not say


@dataclass(frozen=True)
class News:
    """What a heartbeat tells besides; what is None is not told."""

    checkpoint_lag: int | None = None  # seconds
    phase: str | None = None
    progress: Mapping[str, Any] | None = None
    output_bytes: int | None = None
    stalled: bool | None = None


_NO_NEWS = News()


@dataclass(frozen=True)
class HeartbeatAnswer:
    """What the server says about the job: `running`, or a word that ends the attempt (404: `unknown`)."""

    status: str
    stop: str | None = None  # why the command is to be stopped
    is_followed: bool = False  # a reader follows its output
    deadline: float | None = None  # seconds until the job's time is over


@dataclass(frozen=True)
class ReportAnswer:
    """Whether the report was accepted, and whether it counts as a failure of this machine."""

    accepted: bool
    counted: bool = True


@dataclass(frozen=True)
class PieceAnswer:
    """The offset after what the server has of the output, and whether a reader follows it."""

    end: int
    is_followed: bool


@dataclass(frozen=True)
class Response:
    """An answer in JSON, of the coordinator or of something before it."""

    status: int
    body: Any
    retry_after: float = 0.0  # seconds that the server asks for before the next call
    names_extensions: bool = False  # whether it has the header Kelpie-Extensions

    def field(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None


def comes_from_coordinator(answer: Response, job: Job, telling: str) -> bool:
    """Whether the coordinator gave this answer about the job, and not a gateway before it, which may answer with
    JSON of its own and knows nothing of the job.

    A Kelpie server names its extensions in every answer; for an attempt that such a server handed out that alone
    decides. The original API names none: its answers have the field `telling` (`status`, `message` or `id`) with a
    value that is possible there, its refusals an `error`.
    """
    if answer.names_extensions or job.attempt is not None:
        return answer.names_extensions
    told = answer.field(telling if answer.status < 300 else "error")
    if not isinstance(told, str):
        return False
    if answer.status < 300 and telling == "status":
        return told in _STATES
    return answer.status >= 300 or telling != "id" or told == job.id


class Api:
    """One client; its methods may be called from several threads.

    `extensions` holds what the server named in `Kelpie-Extensions` last, None before that is known. Nothing
    beyond the original API is used before it was seen there (docs/design/protocol.md, Extensions). A proxy before
    the server that answers with a page of its own does not name them, which means nothing: only claims that are
    answered without them, one after the other, show that the server itself has become one of the original API.
    """

    def __init__(self, config: Config, identity: Credentials | None = None) -> None:
        """Raises ConfigError if a variable names a proxy that cannot be used."""
        self._config = config
        self._identity = identity or Credentials(config.auth, config.imds_url)
        self.extensions: frozenset[str] | None = None
        self._unnamed_claims = 0  # answers to claims in a row that named none
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.trust_env = False  # proxies and authorities are the same as for the bucket
        self.authorities = authorities()
        self._session.verify = self.authorities.file
        try:
            self.proxy = proxy_for(config.api_url)
        except UnusableProxy as error:
            raise ConfigError(str(error)) from error
        if self.proxy:
            self._session.proxies = {"http": self.proxy.url, "https": self.proxy.url}
        self._session.auth = _unchanged  # else requests would replace the token by a password of a .netrc
        self._session.headers["User-Agent"] = f"kelpie/{VERSION}"

    @property
    def waits(self) -> bool:
        """Whether a claim is held back by the server until there is work."""
        return "wait" in (self.extensions or ())

    @property
    def knows_claims(self) -> bool:
        """Whether a claim that is repeated with its id is answered as before."""
        return "claim-id" in (self.extensions or ())

    def claim(self, claim_id: str, until: float | None = None, at_once: bool = False) -> Claimed:
        """Take a job, if there is one; where there is none, wait for one unless it has to be `at_once`. Repeated
        with the same id it yields the same attempt again.

        `until` (CLOCK_BOOTTIME) is when the worker will want no work any more: the answer comes seconds after it
        at the latest. Raises ClaimRefused if another id is needed.
        """
        read_timeout = _patience(until, boottime())
        extensions = self._known_extensions(read_timeout)
        query = {
            "machine_id": self._config.machine_id,
            "container_group_id": self._config.container_group_id,
        }
        if "claim-id" in extensions:
            query["claim_id"] = claim_id
        if speaks := _SPOKEN & extensions:
            query["speaks"] = ",".join(sorted(speaks))
        wait = longest_wait(until, boottime()) if self.waits and not at_once else 0
        if wait:
            query["wait"] = str(wait)
        sent_at = boottime()
        answer = self._call("GET", "/work", query=query, timeout=_patience(until, sent_at + wait) + wait)
        if 400 <= answer.status < 500:
            if not self._may_refuse_claims(answer):
                raise Unreachable(
                    f"/work was answered with {answer.status}, not by the coordinator{self._advice(answer.status)}"
                )
            said = answer.field("message") or answer.field("error") or ""
            raise ClaimRefused(f"{answer.status}: {said}{self._advice(answer.status)}")
        return self._claimed(claim_id, answer, sent_at, self._pause_after(answer, sent_at, wait), speaks)

    def greet(self) -> Greeting:
        """Send one request with our credentials; any answer counts. Raises Unreachable if there is none."""
        try:
            headers = self._identity.headers()
            response = self._session.get(
                f"{self._config.api_url}/users/me", headers=headers, timeout=_READ_TIMEOUT, allow_redirects=False
            )
        except (NoToken, requests.RequestException, ValueError) as error:
            raise Unreachable(str(error) if isinstance(error, NoToken) else self._why_not_sent(error)) from error
        except OSError as error:  # the file with the authorities does not exist
            raise Unreachable(self._why_not_sent(error)) from error
        named = _words(response.headers.get("Kelpie-Extensions", ""))
        return Greeting(response.status_code, named, response.headers.get("Date", ""))

    def heartbeat(self, job: Job, timeout: float, news: News = _NO_NEWS) -> HeartbeatAnswer:
        """Renew the lease. What the server cannot read is not told; no call is made to find that out.

        Raises Unreachable.
        """
        told = {name: value for name, value in vars(news).items() if value is not None and self._reads(job, name)}
        answer = self._call("POST", f"/jobs/{job.id}/heartbeat", self._holder(job) | told, timeout=timeout)
        self._require_coordinator(answer, job, "status")
        if answer.status == 400 and told:  # no news is worth the lease
            logs.warn("news_refused", job, detail=str(answer.field("message")))
            answer = self._call("POST", f"/jobs/{job.id}/heartbeat", self._holder(job), timeout=timeout)
            self._require_coordinator(answer, job, "status")
        if answer.status == 404:
            return HeartbeatAnswer("unknown")
        status = answer.field("status")
        if answer.status != 200 or not isinstance(status, str):
            raise Unreachable(f"a heartbeat was answered with {answer.status} and no status")
        return _heartbeat_answer(status, answer, job.speaks)

    def _reads(self, job: Job, name: str) -> bool:
        """Whether the server reads this part of a heartbeat."""
        if name == "checkpoint_lag":
            return job.attempt is not None and "checkpoint" in (self.extensions or ())
        return _NEEDS[name] in job.speaks

    def report(
        self,
        job: Job,
        outcome: Ending,
        progress: Mapping[str, Any] | None = None,
        output_bytes: int | None = None,
    ) -> ReportAnswer:
        """Report how the attempt ended; it is not accepted if the server refused or ignored it."""
        if outcome.verdict is Verdict.RELEASED and "release" not in self._known_extensions():
            return ReportAnswer(accepted=True)  # it takes none: the heartbeats end, and the lease lapses
        details: dict[str, Any] = {"exit_code": outcome.exit_code, "reason": outcome.reason}
        if job.attempt is not None and outcome.detail:
            details["detail"] = _presentable(outcome.detail)
        if job.attempt is not None and outcome.verdict is not Verdict.RELEASED:
            details["output"] = outcome.output  # for a server that keeps it with the attempt
        if "steer" in job.speaks and outcome.stop:
            details["stop"] = {"why": outcome.stop}
        if "progress" in job.speaks:
            details["progress"] = progress
        if "output" in job.speaks:
            details["output_bytes"] = output_bytes
        body = self._holder(job) | {name: value for name, value in details.items() if value is not None}
        answer = self._call("POST", f"/jobs/{job.id}/{outcome.verdict}", body)
        self._require_coordinator(answer, job, "message")
        if answer.status == 400 and body.pop("progress", None):  # no progress is worth the report
            logs.warn("news_refused", job, detail=str(answer.field("message")))
            answer = self._call("POST", f"/jobs/{job.id}/{outcome.verdict}", body)
            self._require_coordinator(answer, job, "message")
        accepted = answer.status < 300 and not str(answer.field("message")).startswith("Ignored")
        return ReportAnswer(accepted, counted=answer.field("counted") is not False)

    def send_output(self, job: Job, start: int, content: bytes) -> PieceAnswer | None:
        """Send a piece of the output; None if the attempt is not ours any more. No content: only ask.

        Raises PieceRefused where the server will never take this one.
        """
        holder = {name: str(value) for name, value in self._holder(job).items()}
        answer = self._call("PUT", f"/jobs/{job.id}/output", content=content, query=holder | {"from": str(start)})
        self._require_coordinator(answer, job, "next")
        if answer.status in (404, 409):
            return None
        if answer.status >= 400:
            raise PieceRefused(f"{answer.status}: {answer.field('message') or answer.field('error') or ''}")
        end = answer.field("next")
        if not is_whole(end):
            raise Unreachable("a piece of output was answered without the next offset")
        return PieceAnswer(end, answer.field("watched") is True)

    def keeps_checkpoints(self, job: Job) -> bool:
        return job.attempt is not None and "checkpoint" in self._known_extensions()

    def report_checkpoint(self, job: Job, generation: int, manifest: Manifest) -> int | None:
        """The newest generation of this attempt that the server knows now; None if the job is not ours any more.

        Raises ManifestRefused where the server will never take this one.
        """
        body = {
            "generation": generation,
            "files": [asdict(stored) | {"etag": stored.etag or None} for stored in manifest],
        }
        answer = self._call("PUT", f"/jobs/{job.id}/checkpoint", self._holder(job) | body)
        if answer.status != 413:  # which is about the size alone: whatever says it lets no such manifest through
            self._require_coordinator(answer, job, "generation")
        if answer.status in (404, 409):
            return None
        newest = answer.field("generation")
        if answer.status >= 400:
            raise ManifestRefused(f"{answer.status}: {answer.field('message') or answer.field('error') or ''}")
        if not isinstance(newest, int):
            raise Unreachable("a manifest was answered without its generation")
        return newest

    def report_resume(self, job: Job, checkpoint: str, detail: str) -> None:
        body = {"checkpoint": checkpoint, "detail": detail or None}
        answer = self._call("POST", f"/jobs/{job.id}/resumed", self._holder(job) | body)
        self._require_coordinator(answer, job, "message")

    def failure_is_counted(self, job: Job) -> bool:
        """Whether a failure reported earlier has arrived, for servers that would count its repetition."""
        answer = self._call("GET", f"/jobs/{job.id}")
        self._require_coordinator(answer, job, "id")
        failures = answer.field("num_failures")
        return answer.status == 404 or (isinstance(failures, int) and failures > job.num_failures)

    def recall(self, job: Job) -> Job | None:
        """The same attempt with what the state file does not keep; None if it is gone, or not ours any more."""
        if "steer" in job.speaks and "claim-id" in self._known_extensions():
            return self._claim_again(job)
        answer = self._call("GET", f"/jobs/{job.id}")
        self._require_coordinator(answer, job, "id")
        if answer.status == 404:
            return None
        recalled = self._job(answer.body, job.claim_id, job.attempt)
        return self._claim_again(job) if recalled.secrets and self.knows_claims else recalled

    def _claim_again(self, job: Job) -> Job | None:
        """The attempt as the claim answered it, for no other answer brings secrets.

        Should it have ended just now, another job may come: it is given back.
        """
        try:
            answered = self.claim(job.claim_id, at_once=True).job
        except ClaimRefused:
            return None
        if answered is None or (answered.id, answered.attempt) == (job.id, job.attempt):
            return answered
        self.report(answered, Ending(Verdict.RELEASED, "shutdown"))
        return None

    def _claimed(
        self, claim_id: str, answer: Response, sent_at: float, pause: float, speaks: Collection[str]
    ) -> Claimed:
        if answer.status != 200 or not isinstance(answer.body, list):
            raise Unreachable(f"a claim was answered with {answer.status}")
        if not answer.body:
            return Claimed(claim_id, pause=pause)
        document = answer.body[0]
        attempt = None
        if isinstance(document, dict) and answer.names_extensions and "attempt" in self._known_extensions():
            attempt = document.get("attempt")
        return Claimed(claim_id, self._job(document, claim_id, attempt, speaks), sent_at)

    def _pause_after(self, answer: Response, sent_at: float, wait: int) -> float:
        """Seconds until the next claim, if this one got no job.

        A server that is full or shutting down answers early.
        """
        if not wait:
            return max(_SHORTEST_POLL, self._config.poll_interval)
        unwaited = boottime() - sent_at < _UNWAITED_PAUSE
        return answer.retry_after or (_UNWAITED_PAUSE if unwaited else 0.0)

    def _job(self, document: Any, claim_id: str, attempt: int | None, speaks: Collection[str] = ()) -> Job:
        spoken = speaks if attempt is not None else ()
        try:
            return from_wire(document, claim_id, self._config.directories, attempt, spoken)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable(f"the server's answer is no job: {error!r}") from error

    def _holder(self, job: Job) -> dict[str, Any]:
        holder: dict[str, Any] = {
            "machine_id": self._config.machine_id,
            "container_group_id": self._config.container_group_id,
        }
        return holder if job.attempt is None else holder | {"attempt": job.attempt}

    def _require_coordinator(self, answer: Response, job: Job, telling: str) -> None:
        """Raises Unreachable if the answer says nothing about the job."""
        if not comes_from_coordinator(answer, job, telling):
            advice = self._advice(answer.status)
            raise Unreachable(f"/jobs/{job.id} was answered with {answer.status}, not by the coordinator{advice}")

    def _may_refuse_claims(self, answer: Response) -> bool:
        """Whether the coordinator gave this answer to a claim, judged as `comes_from_coordinator` does."""
        if answer.names_extensions or self.extensions:
            return answer.names_extensions
        return isinstance(answer.field("error"), str)

    def _known_extensions(self, timeout: float = _READ_TIMEOUT) -> frozenset[str]:
        """The extensions, requested if they are not yet known: already the first claim must have its id."""
        if self.extensions is None:
            self._call("GET", "/users/me", timeout=timeout)
        return self.extensions or frozenset()

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        timeout: float = _READ_TIMEOUT,
    ) -> Response:
        """`content` is a body that is no JSON, instead of `body`."""
        url = self._config.api_url + path
        limits = (min(_CONNECT_TIMEOUT, timeout), timeout)
        try:
            headers = self._identity.headers(timeout)
            kind = {} if content is None else {"Content-Type": "application/octet-stream"}
            response = self._session.request(
                method,
                url,
                params=query,
                json=body,
                data=content,
                headers=headers | kind,
                timeout=limits,
                allow_redirects=False,
            )
            if response.status_code in (401, 403):
                self._identity.refused(headers)
            return self._answer(response, path)
        except NoToken as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        except (requests.RequestException, ValueError) as error:
            raise Unreachable(f"{method} {path}: {self._why_not_sent(error)}") from error
        except OSError as error:  # the file with the authorities does not exist
            raise Unreachable(f"{method} {path}: {self._why_not_sent(error)}") from error

    def _why_not_sent(self, error: Exception) -> str:
        """The error in words, with the setting that it may come from."""
        name = type(error).__name__
        if isinstance(error, requests.exceptions.ProxyError):
            return f"{name} at {self.proxy}"
        if isinstance(error, requests.exceptions.SSLError):
            reason = _VERIFICATION.search(str(error))
            return f"{name}{f' ({reason[1].strip()})' if reason else ''}; trusted are {self.authorities}"
        if isinstance(error, requests.RequestException | ValueError):
            return name
        return f"{error}; trusted are {self.authorities}"

    def _answer(self, response: requests.Response, path: str) -> Response:
        status = response.status_code
        if not response.headers:  # cut off, so that the missing Kelpie-Extensions means nothing
            raise Unreachable(f"{path} was answered without headers")
        if not 200 <= status < 300 and (status in (401, 403, 429) or not 400 <= status < 500):
            raise Unreachable(f"{path} was answered with {status}{self._advice(status)}")
        named = response.headers.get("Kelpie-Extensions")
        try:
            answer = Response(
                status, response.json(), _seconds(response.headers.get("Retry-After")), named is not None
            )
        except ValueError as error:  # a page of a proxy before the API, which knows nothing of the job
            raise Unreachable(f"{path} was answered with {status} and no JSON{self._advice(status)}") from error
        self._learn_extensions(named, path, answer)
        return answer

    def _advice(self, status: int) -> str:
        """Advice to append to an error, if the status means that a setting is wrong."""
        if status == 404:
            return "; does KELPIE_API_URL name a Kelpie API?"
        if status not in (401, 403):
            return ""
        used = [named for header, named in _CREDENTIALS.items() if header in self._config.auth.headers]
        return f"; check {used[0] if used else 'the project of the token, SALAD_PROJECT'}"

    def _learn_extensions(self, named: str | None, path: str, answer: Response) -> None:
        if named is not None:
            self.extensions, self._unnamed_claims = _words(named), 0
        elif path == "/work" and answer.status == 200 and isinstance(answer.body, list):
            self._unnamed_claims += 1
            if self.extensions is None or self._unnamed_claims >= _ENOUGH:
                self.extensions = frozenset()


def _heartbeat_answer(status: str, answer: Response, speaks: Collection[str]) -> HeartbeatAnswer:
    """With what else a server says that steers; anything that is not of the protocol counts as absent."""
    if "steer" not in speaks:
        return HeartbeatAnswer(status, is_followed=answer.field("watched") is True)
    stop, deadline = answer.field("stop"), answer.field("deadline")
    why = stop.get("why") if isinstance(stop, dict) else None
    is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool) and math.isfinite(deadline)
    return HeartbeatAnswer(
        status,
        stop=str(why)[:_LONGEST_WHY] if why else None,
        is_followed=answer.field("watched") is True,
        deadline=float(deadline) if is_number else None,
    )


def _patience(until: float | None, now: float) -> float:
    """Seconds to wait for an answer. Few only if it is not wanted later, since a job may be lost with it."""
    return _READ_TIMEOUT if until is None else max(_SHORT_READ_TIMEOUT, min(_READ_TIMEOUT, until - now))


def _presentable(detail: str) -> str:
    """A detail without secrets, NUL and lone surrogates, and not too long: else the report would be refused."""
    readable = without_secrets(detail).encode(errors="replace").decode().replace("\0", "\ufffd")
    return readable[:LONGEST_DETAIL]


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def longest_wait(until: float | None, now: float) -> int:
    """Seconds that the server may hold a claim back; never so few that the worker would ask all the time."""
    if until is None:
        return WAIT_FOR_WORK
    return max(_SHORTEST_WAIT, min(WAIT_FOR_WORK, math.ceil(until - now)))


def _seconds(text: str | None) -> float:
    """The number form of Retry-After, within a minute; its other form, a date, is by the server's clock."""
    return min(float(text), 60.0) if text and text.isascii() and text.isdigit() else 0.0
