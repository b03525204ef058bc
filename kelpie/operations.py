"""What a client does, as steps: each operation once, for the sync and for the async client."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kelpie.definitions import KEPT_OUTPUT, needed_extensions
from kelpie.errors import Ambiguous, DefinitionError, NotFound, TimedOut, Unreachable
from kelpie.exchange import Server, as_json, fetch, known, require, send
from kelpie.grids import fill, refuse_shared_places
from kelpie.models import FINAL
from kelpie.steps import Call, Emit, Pause

Result = TypeVar("Result")
Doing = Generator[Any, Any, Result]
Json = dict[str, Any]

LONGEST_BATCH = 1000  # jobs
KEYS_LAST = timedelta(hours=20)  # for which the coordinator surely knows an Idempotency-Key; it does for a day
IDS_AT_ONCE = 500  # of one request that waits
WAIT = 20  # seconds that a request is held back until something changes
LASTING = 24 * 3600.0  # seconds for which a coordinator that was there is asked again while jobs are waited for
MARGIN = 15.0  # seconds beyond, before a held request counts as lost


def pairs(filters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Filters as a query: labels as `key:value`, lists as one pair each."""
    found: list[tuple[str, str]] = []
    for name, value in filters.items():
        if value is None or value == () or value == []:
            continue
        if name == "labels":
            found += [("label", f"{key}:{text}") for key, text in value.items()]
        elif isinstance(value, bool):
            found.append((name, "true" if value else "false"))
        elif isinstance(value, str | int | float):
            found.append((name, str(value)))
        else:
            found += [(name, str(one)) for one in value]
    return found


# --- submission -------------------------------------------------------------------------------------


def submit(server: Server, made: Json, key: str | None = None) -> Doing[Json]:
    """Submit a job, once however often the request has to be sent."""
    accepted = yield from acceptable(server, made)
    return dict((yield from _post(server, "/jobs", accepted, key or str(uuid.uuid4()))))


def submit_many(
    server: Server,
    definitions: Sequence[Json],
    key: str | None = None,
    tell: Callable[[int], None] | None = None,
    begun: int = 0,
) -> Doing[list[Json]]:
    """Submit jobs in batches; with a `key`, a repetition of the whole makes no job a second time.

    The first `begun` are passed over. `tell` hears after each batch how many are submitted.
    """
    name = key or str(uuid.uuid4())
    found: list[Json] = []
    for first in range(begun, len(definitions), LONGEST_BATCH):
        batch = []
        for made in definitions[first : first + LONGEST_BATCH]:
            batch.append((yield from acceptable(server, made)))
        found += yield from _post(server, "/jobs/batch", batch, f"{name}/{first}")
        if tell:
            tell(begun + len(found))
    return found


def acceptable(server: Server, made: Json) -> Doing[Json]:
    """The definition with what this client adds.

    Raises NotSupported for a field that the coordinator does not know.
    """
    yield from known(server)  # else the first submission of a key would be another one
    for extension, field in needed_extensions(made).items():
        yield from require(server, extension, f"the field {field}")
    if server.extensions and "output" in server.extensions:
        return {"keep_output": KEPT_OUTPUT, **made}
    return made


def _post(server: Server, path: str, body: Any, key: str | None = None, timeout: float = 60.0) -> Doing[Any]:
    headers = {"Idempotency-Key": key} if key else {}
    reply = yield from send(
        server, Call("POST", path, body=body, headers=headers, timeout=timeout, repeatable=key is not None)
    )
    return as_json(server, reply)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it is submitted: its name, and the definitions of its jobs."""

    name: str
    definitions: Sequence[Json]
    max_parallel: int | None = None
    labels: Mapping[str, str] | None = None
    webhook: str | None = None

    @property
    def digest(self) -> str:
        """Of all that makes it what it is: the same sweep again has the same, so that it makes no job twice."""
        whole = [self.name, list(self.definitions), self.max_parallel, dict(self.labels or {}), self.webhook]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def plan_sweep(template: Json, parameters: Sequence[Mapping[str, Any]], name: str, **more: Any) -> SweepPlan:
    """The sweep of a template and its parameters; its labels are those of its jobs, too.

    Raises DefinitionError before anything is sent.
    """
    if not parameters:
        raise DefinitionError("A sweep without parameters has no job; give -p name=values or a CSV file.")
    labeled = {"labels": dict(more["labels"])} if more.get("labels") else {}
    jobs = []
    for index, values in enumerate(parameters):
        named = {**values, "index": index, "sweep": name}
        title = "-".join([name, *(f"{key}={value}" for key, value in values.items())])[:100]
        filled: Json = fill(template, {"name": title, **named})
        jobs.append({"name": title, **labeled, **filled})
    refuse_shared_places(jobs)
    return SweepPlan(name, jobs, **more)


def _submitted_before(plan: SweepPlan, made: Json) -> int:
    """How many jobs of the sweep need not be submitted: all, or the batches of a day ago, whose keys are gone.

    Raises DefinitionError where that cannot be told.
    """
    total, age = made["total"], datetime.now(UTC) - datetime.fromisoformat(made["created"])
    if total >= len(plan.definitions):
        return len(plan.definitions)
    if age < KEYS_LAST:
        return 0
    if total % LONGEST_BATCH:
        raise DefinitionError(
            f"The sweep {plan.name} was made {age.days or 'some'} days ago and has {total} of its"
            f" {len(plan.definitions)} jobs; to make all anew say so: --again, or again=True."
        )
    return int(total)


def submit_sweep(
    server: Server, plan: SweepPlan, again: bool = False, tell: Callable[[int], None] | None = None
) -> Doing[Json]:
    """Make a sweep and submit its jobs; run a second time, also after it was killed in the middle, it makes none
    twice.

    `again` makes it anew, on purpose. One with a webhook is closed once it has its jobs: of an open one no end is
    told, for more jobs may come. `tell` hears how many are submitted. Returns the sweep.
    """
    yield from require(server, "sweeps", "sweeps")
    key = f"sweep-{plan.digest[:40]}" if not again else f"sweep-{uuid.uuid4()}"
    wanted = {"name": plan.name, "max_parallel": plan.max_parallel, "labels": plan.labels, "webhook": plan.webhook}
    body = {name: value for name, value in wanted.items() if value is not None}
    made = yield from _post(server, "/sweeps", body, key)
    begun = _submitted_before(plan, made)
    jobs = [{**one, "sweep": made["id"]} for one in plan.definitions]
    yield from submit_many(server, jobs, key, tell, begun)
    if plan.webhook is not None:
        yield from send(server, Call("PATCH", f"/sweeps/{made['id']}", body={"closed": True}))
    return dict((yield from fetch(server, f"/sweeps/{made['id']}")))


# --- reading ----------------------------------------------------------------------------------------


def get_job(server: Server, job_id: str) -> Doing[Json]:
    return dict((yield from fetch(server, f"/jobs/{job_id}")))


def find_jobs(server: Server, reference: str) -> Doing[list[Json]]:
    """The jobs that an id, the end of one, or a name may mean, newest first. Raises NotFound if there is none."""
    if not reference.strip():
        raise DefinitionError("The name of a job is empty; give its id, the end of that, or its name.")
    if _is_id(reference):
        return [(yield from get_job(server, reference))]
    yield from require(server, "filters", "names and ends of ids; give the whole id")
    page = yield from fetch(server, "/jobs", ("ref", reference), ("page_size", "100"))
    if not page["jobs"]:
        raise NotFound(
            f"There is no job {reference}; kelpie ls -a lists yours, a job has an id and perhaps a name.", 404
        )
    return list(page["jobs"])


def resolve(server: Server, reference: str, changing: bool) -> Doing[Json]:
    """The one job that is meant. Of several of one name reading takes the newest; changing raises Ambiguous."""
    found = yield from find_jobs(server, reference)
    if len(found) > 1 and changing:
        ids = [job["id"] for job in found]
        listed = ", ".join(ids[:10])
        raise Ambiguous(f"{len(found)} jobs are called {reference}, and a change must name one: {listed}.", ids)
    return dict(found[0])


def _is_id(text: str) -> bool:
    try:
        return len(text) >= 32 and bool(uuid.UUID(text))
    except ValueError:
        return False


def each_job(
    server: Server, filters: Mapping[str, Any], most: int | None = None, lenient: bool = False
) -> Doing[None]:
    """Emit the jobs that match, newest first, page by page.

    `lenient`: a coordinator of which nothing is known yet is not asked first whether it knows the filters; one
    that does not answers all jobs.
    """
    if filters and not (lenient and server.extensions is None):
        unknown = set(filters) - {"status", "container_group_id"}
        if unknown:
            yield from require(server, "filters", f"the filter {sorted(unknown)[0]}")
    query = [*pairs(filters), ("page_size", str(min(most or 100, 1000)))]
    left = most
    cursor: str | None = None
    while True:
        reply = yield from send(
            server, Call("GET", "/jobs", [*query, *([("cursor", cursor)] if cursor else [])], timeout=60.0)
        )
        body = as_json(server, reply)
        for job in body["jobs"]:
            if left is not None:
                if left == 0:
                    return
                left -= 1
            yield Emit(job)
        cursor = next_cursor(reply.headers.get("Link"))
        if cursor is None:
            return


def next_cursor(link: str | None) -> str | None:
    """The cursor of the next page, from a `Link` header (RFC 8288)."""
    import httpx

    for part in (link or "").split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            found: str | None = httpx.URL(address.strip().strip("<>")).params.get("cursor")
            return found
    return None


def each_sweep(server: Server) -> Doing[None]:
    """Emit the sweeps, newest first, page by page."""
    yield from require(server, "sweeps", "sweeps")
    yield from _each(server, "/sweeps", "sweeps")


def history(server: Server, job_id: str, what: str) -> Doing[None]:
    """Emit the attempts or events of a job, first to last."""
    yield from _each(server, f"/jobs/{job_id}/{what}", what)


def _each(server: Server, path: str, what: str) -> Doing[None]:
    """Emit what the pages of a route have under that name."""
    cursor: str | None = None
    while True:
        reply = yield from send(server, Call("GET", path, [("cursor", cursor)] if cursor else []))
        for row in as_json(server, reply)[what]:
            yield Emit(row)
        cursor = next_cursor(reply.headers.get("Link"))
        if cursor is None:
            return


def why(server: Server, job_id: str) -> Doing[list[Json]]:
    yield from require(server, "why", "the question why")
    found = yield from fetch(server, f"/jobs/{job_id}/why")
    return list(found if isinstance(found, list) else found["why"])


# --- changing ---------------------------------------------------------------------------------------


def act(server: Server, job_id: str, verb: str, body: Json | None = None) -> Doing[Json]:
    """hold, resume, interrupt or rerun one job. A repetition changes nothing, but for `rerun`, which has a key."""
    extension = "steer" if verb != "rerun" else "names"
    yield from require(server, extension, f"{verb} of a job")
    headers = {"Idempotency-Key": str(uuid.uuid4())} if verb == "rerun" else {}
    reply = yield from send(server, Call("POST", f"/jobs/{job_id}/{verb}", body=body or {}, headers=headers))
    return dict(as_json(server, reply) or {})


def rerun(server: Server, job_id: str, fresh: bool = False, sweep: bool = False) -> Doing[Json]:
    """Submit a job that has ended anew: `fresh` without its checkpoints, `sweep` to its sweep."""
    return (
        yield from act(
            server, job_id, "rerun", {name: True for name, said in (("fresh", fresh), ("sweep", sweep)) if said}
        )
    )


def interrupt(server: Server, job_id: str, ban: bool = False) -> Doing[Json]:
    """Have the machine save a job and give it back; with `ban` it does not get it again."""
    return (yield from act(server, job_id, "interrupt", {"ban": True} if ban else None))


def cancel(server: Server, job_id: str, graceful: bool = False) -> Doing[Json]:
    if graceful:
        yield from require(server, "steer", "a cancel that saves first")
    params = [("graceful", "true")] if graceful else []
    reply = yield from send(server, Call("DELETE", f"/jobs/{job_id}", params))
    return dict(as_json(server, reply) or {})


def edit(server: Server, job_id: str, changes: Json) -> Doing[Json]:
    yield from require(server, "names", "changes of a job")
    reply = yield from send(server, Call("PATCH", f"/jobs/{job_id}", body=changes))
    return dict(as_json(server, reply))


def count(server: Server, filters: Mapping[str, Any]) -> Doing[Json]:
    yield from require(server, "filters", "counts of jobs")
    return dict((yield from fetch(server, "/jobs/counts", *pairs(filters))))


def bulk(server: Server, verb: str, filters: Mapping[str, Any], expect: int | None = None) -> Doing[Json]:
    """cancel, hold, resume or rerun all jobs that match. Raises DefinitionError without a filter."""
    if not pairs(filters):
        raise DefinitionError(f"{verb} of all jobs needs a filter, such as a label or a phase.")
    yield from require(server, "filters", f"{verb} of many jobs")
    body: Json = {}
    for name, value in pairs(filters):
        body[name] = (
            [*([body[name]] if isinstance(body.get(name), str) else body.get(name, [])), value]
            if name in body
            else value
        )
    if expect is not None:
        body["expect"] = expect
    return dict((yield from _post(server, f"/jobs/{verb}", body, str(uuid.uuid4()), timeout=120.0)))


# --- waiting ----------------------------------------------------------------------------------------


def until_final(server: Server, job_ids: Iterable[str], timeout: float | None = None) -> Doing[None]:
    """Emit each job as it becomes final, with one request at a time however many there are.

    Raises TimedOut. A restart of the coordinator is waited out.
    """
    open_ids = list(dict.fromkeys(job_ids))
    yield from known(server)  # one that was never there is not waited for
    server = Server(server.url, LASTING, server.extensions)
    deadline = None if timeout is None else time.monotonic() + timeout
    since: str | None = None
    while open_ids:
        left = None if deadline is None else deadline - time.monotonic()
        found, since = yield from _changed(server, open_ids, since, left)
        for job in found:
            if job["status"] in FINAL and job["id"] in open_ids:
                open_ids.remove(job["id"])
                yield Emit(job)
        if open_ids and deadline is not None and time.monotonic() >= deadline:
            raise TimedOut(f"{len(open_ids)} of the jobs did not end in {timeout:g} seconds; they run on.")


def _changed(
    server: Server, job_ids: Sequence[str], since: str | None, left: float | None
) -> Doing[tuple[list[Json], str | None]]:
    """The jobs that changed, as soon as one did, and the mark to ask on from."""
    if "filters" not in (server.extensions or ()):
        return (yield from _looked_at(server, job_ids, left)), None
    found: list[Json] = []
    rounds = [job_ids[first : first + IDS_AT_ONCE] for first in range(0, len(job_ids), IDS_AT_ONCE)]
    wait = 0 if since is None or len(rounds) > 1 else max(1, int(min(WAIT, WAIT if left is None else left)))
    mark = since
    for ids in rounds:
        query = [*(("id", one) for one in ids), ("page_size", str(IDS_AT_ONCE))]
        query += [("wait", str(wait))] if wait else []
        query += [("changed_since", since)] if since else []
        reply = yield from send(server, Call("GET", "/jobs", query, timeout=wait + MARGIN))
        body = as_json(server, reply)
        found += body["jobs"]
        mark = body.get("changed_since", mark)
    if not wait and (since is not None or not found):
        yield Pause(1.0 if left is None else min(1.0, max(left, 0.0)))
    return found, mark


def _looked_at(server: Server, job_ids: Sequence[str], left: float | None) -> Doing[list[Json]]:
    """Of a coordinator that cannot be asked for many: one after the other, and a pause."""
    found = []
    for job_id in job_ids:
        found.append((yield from get_job(server, job_id)))
    if not any(job["status"] in FINAL for job in found):
        yield Pause(2.0 if left is None else min(2.0, max(left, 0.0)))
    return found


# --- output -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some output of an attempt. `left_out` are the bytes before it that were not kept."""

    attempt: int
    text: bytes
    left_out: int = 0
    begins: bool = False  # the first of this attempt
    next: int = 0  # the offset after it


class Lines:
    """Joins pieces of output to lines. One that an attempt did not end is ended by the next attempt."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, piece: Piece) -> list[str]:
        """The lines that this piece completes."""
        before = self.rest() if piece.begins else []
        *lines, self._rest = (self._rest + piece.text).split(b"\n")
        return before + [line.decode(errors="replace") for line in lines]

    def rest(self) -> list[str]:
        """The line that has begun, if one has."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


def output(
    server: Server,
    job_id: str,
    *,
    follow: bool,
    attempt: int | None = None,
    after: Piece | None = None,
    patience: float = LASTING,
) -> Doing[None]:
    """Emit the output of a job's attempts as Pieces, or what comes `after` one.

    With `follow` until the job has ended. A coordinator that is away is asked again for `patience` seconds.
    """
    yield from require(server, "output", "the output of jobs")
    lasting = Server(server.url, patience if follow else server.patience, server.extensions)
    number = after.attempt if after else attempt
    if number is None:
        known = yield from fetch(lasting, f"/jobs/{job_id}/attempts")
        number = known["attempts"][0]["number"] if known["attempts"] else 1
    offset, begins = (after.next, False) if after else (0, True)
    while True:
        job = yield from get_job(lasting, job_id)
        over = job["status"] in FINAL or job["attempt"] > number or not follow
        if job["attempt"] < number:
            if over:
                return
            yield Pause(1.0)
            continue
        params = [("attempt", str(number)), ("from", str(offset))]
        params += [] if over else [("wait", str(WAIT))]
        reply = yield from send(lasting, Call("GET", f"/jobs/{job_id}/output", params, timeout=WAIT + MARGIN))
        following = _number(reply.headers.get("Kelpie-Next-Offset"), offset + len(reply.content))
        left_out = _number(reply.headers.get("Kelpie-Left-Out"), 0)
        if reply.content or left_out:
            yield Emit(Piece(number, reply.content, left_out, begins, following))
            begins = False
        moved = following > offset
        offset = following
        if moved or not over:
            if not moved:  # between two attempts nothing holds the answer back
                pause = 1 if job["status"] == "pending" else 0
                yield Pause(_number(reply.headers.get("Retry-After"), pause))
            continue
        if attempt is not None or job["attempt"] <= number:
            return
        number, offset, begins = number + 1, 0, True


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdigit() else otherwise


def last_output(server: Server, job: Json) -> Doing[str]:
    """The end of the last attempt's output: what is kept of it, else what its report carried.

    "" if there is none.
    """
    if not job["attempt"]:
        return ""
    if "output" in (server.extensions or ()):
        try:
            reply = yield from send(
                server, Call("GET", f"/jobs/{job['id']}/output", [("attempt", str(job["attempt"]))])
            )
            if reply.content:
                return str(reply.content[-4096:].decode(errors="replace"))
        except (NotFound, Unreachable):
            pass
    found = yield from fetch(server, f"/jobs/{job['id']}/attempts")
    last = found["attempts"][-1] if found["attempts"] else {}
    return str(last.get("output") or "")[-4096:]


def request(
    server: Server, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None
) -> Doing[Any]:
    """The JSON that a route answers. Sent again after a lost connection where the method makes that harmless."""
    repeatable = method.upper() in ("GET", "HEAD", "PUT", "DELETE")
    reply = yield from send(server, Call(method.upper(), path, pairs(params or {}), body, repeatable=repeatable))
    return as_json(server, reply)
