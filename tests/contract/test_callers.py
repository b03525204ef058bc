"""Section 5: who may call, and the users' routes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_stack.processes import wait_for
from tests.contract.client import TIME, Api, Json, expect, expect_error, expect_invalid, unique
from tests.contract.doubles import NOTHING, Salad
from tests.contract.stack import ADMIN_KEY, WEB_PROCESSES, Stack, User

PROJECT = "a-project"


def ids(jobs: list[Json]) -> list[str]:
    return [job["id"] for job in jobs]


@dataclass(frozen=True)
class Organization:
    """An organization at Salad, with a key of its own and one container group."""

    stack: Stack
    salad: Salad
    name: str
    key: str
    group: str

    def by_key(self, project: str = PROJECT, key: str | None = None, **headers: str) -> Api:
        """Calls with the Salad key."""
        names = {"Salad-Organization": self.name, "Salad-Project": project}
        return self._caller({"Salad-Api-Key": key or self.key, **names, **headers})

    def by_token(self, machine: str = "m", project: str = PROJECT, group: str | None = None, **claims: Any) -> Api:
        """Calls with a token of a machine in the group."""
        return self.bearing(self.salad.token(self.name, group or self.group, machine, **claims), project)

    def bearing(self, token: str, project: str = PROJECT) -> Api:
        return self._caller({"Authorization": f"Bearer {token}", "Salad-Project": project})

    def _caller(self, headers: dict[str, str]) -> Api:
        return Api(self.stack.url, self.stack.session, headers, self.group)


def new_organization(stack: Stack, salad: Salad) -> Organization:
    name = f"org-{uuid.uuid4().hex[:10]}"
    made = Organization(stack, salad, name, f"salad-key-{uuid.uuid4().hex}", str(uuid.uuid4()))
    salad.keys[made.key].update({(name, PROJECT), (name, "another-project")})
    salad.groups[name, PROJECT].append(made.group)
    return made


@pytest.fixture
def organization(stack: Stack, salad: Salad) -> Organization:
    return new_organization(stack, salad)


@pytest.fixture
def elsewhere(other_stack: Stack, salad: Salad) -> Organization:
    """Of the stack where tokens may do more and a proof lasts one second."""
    return new_organization(other_stack, salad)


def me(api: Api) -> Json:
    return expect(200, api.get("/users/me")).json


# --- 1. Kelpie API key


@pytest.mark.parametrize("key", ["wrong", "x" * 5000, "kelpie_" + "x" * 43, "ü"])
def test_a_wrong_key_is_refused(nobody: Api, key: str) -> None:
    expect_error(403, nobody.with_headers({"X-Kelpie-Key": key.encode("latin-1")}).get("/users/me"))  # type: ignore[dict-item]


def test_a_call_without_a_credential_is_401(nobody: Api) -> None:
    expect_error(401, nobody.get("/users/me"))


def test_a_group_and_an_organization_are_no_key(nobody: Api) -> None:
    expect_error(403, nobody.with_headers({"X-Kelpie-Key": f"{uuid.uuid4()}|acme"}).get("/users/me"))


def test_a_key_is_of_one_user_and_one_project(user: User) -> None:
    one, two = user.api("one"), user.api("two")
    assert me(one) == me(two)
    job = one.submit()
    expect_error(404, two.get(f"/jobs/{job['id']}"))
    assert two.listed() == []
    assert ids(user.api("one").listed()) == [job["id"]]


def test_two_keys_of_one_project_are_the_same_tenant(user: User) -> None:
    first, second = user.api(), user.api()
    assert first.headers != second.headers
    job = first.submit()
    assert ids(second.claim("m", first.group)) == [job["id"]]


def test_no_key_is_stored_as_it_was_issued(stack: Stack, organization: Organization, user: User) -> None:
    keys = [user.key(), organization.key, ADMIN_KEY]
    api = user.stack.caller({"X-Kelpie-Key": keys[0]})
    api.claimed("m", webhook="http://127.0.0.1:9/")
    organization.by_key().get("/users/me")
    dump = everything_stored(stack.database_url)
    assert api.group in dump
    assert not [key for key in keys if key in dump]
    assert not [key for key in keys if key in stack.log()]


def everything_stored(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "select quote_ident(table_schema) || '.' || quote_ident(table_name) from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = [connection.execute(f"select t::text from {table} t".encode()).fetchall() for (table,) in tables]
    return "\n".join(text for found in rows for (text,) in found)


# --- 2. Salad API key


@pytest.mark.parametrize("missing", ["Salad-Organization", "Salad-Project"])
def test_a_salad_key_without_one_of_its_headers_is_400(organization: Organization, missing: str) -> None:
    api = organization.by_key()
    headers = {name: value for name, value in api.headers.items() if name != missing}
    error = expect_error(400, api.with_headers(headers).get("/users/me"))
    assert missing in error["message"]


def test_a_salad_key_is_proven_by_asking_salad(organization: Organization, salad: Salad) -> None:
    user = me(organization.by_key())
    assert user["username"] == organization.name
    assert (organization.name, PROJECT, organization.key) in salad.asked


def test_a_salad_key_that_salad_refuses_is_refused(organization: Organization) -> None:
    expect_error(403, organization.by_key(key="wrong").get("/users/me"))


def test_a_salad_key_opens_no_project_that_it_is_not_for(organization: Organization, salad: Salad) -> None:
    expect_error(403, organization.by_key(project="a-third-project").get("/users/me"))
    other = new_organization(organization.stack, salad)
    expect_error(403, organization.by_key(key=other.key).get("/users/me"))


@pytest.mark.parametrize("name", ["../../x", "a/b", "a?b", "A B", "x" * 300])
def test_an_organization_that_cannot_be_one_is_refused(organization: Organization, name: str) -> None:
    answer = organization.by_key(**{"Salad-Organization": name}).get("/users/me")
    assert answer.status in (400, 403)
    expect_error(answer.status, answer)


def test_a_proof_is_kept_and_so_is_a_refusal(organization: Organization, salad: Salad) -> None:
    wrong = f"wrong-{uuid.uuid4().hex}"
    for _ in range(10):
        expect(200, organization.by_key().get("/users/me"))
        expect_error(403, organization.by_key(key=wrong).get("/users/me"))
    assert 1 <= salad.questions(organization.key) <= WEB_PROCESSES
    assert 1 <= salad.questions(wrong) <= WEB_PROCESSES


@pytest.mark.parametrize("trouble", [500, 502, 503, NOTHING])
def test_a_proven_key_stays_valid_while_salad_is_in_trouble(
    elsewhere: Organization, salad: Salad, trouble: int
) -> None:
    api = elsewhere.by_key()
    expect(200, api.get("/users/me"))
    asked = salad.questions(elsewhere.key)
    salad.trouble[elsewhere.name] = trouble

    def asked_again() -> bool:
        expect(200, api.get("/users/me"))
        return salad.questions(elsewhere.key) > asked

    wait_for(asked_again, "the proof to end and Salad to be asked again")
    expect(200, api.get("/users/me"))


def test_a_key_that_salad_no_longer_accepts_is_refused_after_its_proof_has_ended(
    elsewhere: Organization, salad: Salad
) -> None:
    api = elsewhere.by_key()
    expect(200, api.get("/users/me"))
    salad.keys[elsewhere.key].clear()
    wait_for(lambda: api.get("/users/me").status == 403, "the key to be refused")


@pytest.mark.parametrize("trouble", [500, NOTHING])
def test_an_unproven_key_is_not_let_in_while_salad_is_in_trouble(
    organization: Organization, salad: Salad, trouble: int
) -> None:
    salad.trouble[organization.name] = trouble
    answer = organization.by_key().get("/users/me")
    assert answer.status in (403, 503)
    expect_error(answer.status, answer)


def test_a_salad_key_and_a_kelpie_key_are_never_taken_for_each_other(
    organization: Organization, user: User
) -> None:
    expect(200, organization.by_key().get("/users/me"))
    expect_error(403, organization.stack.caller({"X-Kelpie-Key": organization.key}).get("/users/me"))
    expect_error(403, organization.by_key(key=user.key()).get("/users/me"))


# --- 3. IMDS JWT


def test_a_token_without_the_project_is_400(organization: Organization) -> None:
    api = organization.by_token()
    headers = {"Authorization": api.headers["Authorization"]}
    assert "Salad-Project" in expect_error(400, api.with_headers(headers).get("/users/me"))["message"]


def test_a_token_is_of_the_user_of_its_organization(organization: Organization) -> None:
    assert me(organization.by_token())["username"] == organization.name


Forge = Callable[[Salad, Json], str]


def changed(**changes: Any) -> Forge:
    """A well-signed token with other claims; None takes one away."""

    def forge(salad: Salad, claims: Json) -> str:
        merged = {**claims, **changes}
        return salad.sign({name: value for name, value in merged.items() if value is not None})

    return forge


def moved(**seconds: int) -> Forge:
    """A well-signed token whose times are those seconds from now."""
    return lambda salad, claims: changed(**{name: int(time.time()) + s for name, s in seconds.items()})(
        salad, claims
    )


def unsigned(salad: Salad, claims: Json) -> str:
    return jwt.encode(claims, key=None, algorithm="none")


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed_with_the_public_key(salad: Salad, claims: Json) -> str:
    public = salad.signing_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    content = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': salad.kid})}.{encoded(claims)}"
    mac = hmac.new(public, content.encode(), hashlib.sha256).digest()
    return f"{content}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def signed_with_another_key(salad: Salad, claims: Json) -> str:
    own = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(claims, own, algorithm="ES256", headers={"kid": salad.kid})


def with_an_embedded_key(salad: Salad, claims: Json) -> str:
    own = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(own.public_key(), as_dict=True)
    return jwt.encode(claims, own, algorithm="ES256", headers={"kid": salad.kid, "jwk": public})


def tampered(salad: Salad, claims: Json) -> str:
    header, _, signature = salad.sign(claims).split(".")
    return f"{header}.{encoded({**claims, 'salad_machine_id': 'another'})}.{signature}"


def nonsense(salad: Salad, claims: Json) -> str:
    return "nonsense"


FORGERIES: list[tuple[str, Forge]] = [
    ("no signature", unsigned),
    ("HS256 with the public key", signed_with_the_public_key),
    ("another key", signed_with_another_key),
    ("a key of its own in the header", with_an_embedded_key),
    ("tampered", tampered),
    ("nonsense", nonsense),
    ("wrong issuer", changed(iss="https://evil.example")),
    ("wrong audience", changed(aud=str(uuid.uuid4()))),
    ("expired", moved(iat=-900, nbf=-900, exp=-600)),
    ("issued in the future", moved(iat=600, nbf=-5, exp=900)),
    ("not valid yet", moved(iat=-5, nbf=600, exp=900)),
    *[
        (f"without {name}", changed(**{name: None}))
        for name in (
            "exp",
            "iat",
            "nbf",
            "iss",
            "aud",
            "sub",
            "salad_organization_id",
            "salad_organization_name",
            "salad_workload_id",
            "salad_machine_id",
        )
    ],
]


@pytest.mark.parametrize("forge", [forge for _, forge in FORGERIES], ids=[name for name, _ in FORGERIES])
def test_a_token_that_is_not_good_is_refused(organization: Organization, salad: Salad, forge: Forge) -> None:
    claims = salad.claims(organization.name, organization.group, "m")
    expect_error(403, organization.bearing(forge(salad, claims)).get("/users/me"))
    expect(200, organization.bearing(salad.sign(claims)).get("/users/me"))


def test_an_algorithm_that_is_not_allowed_is_refused_before_any_key_is_fetched(
    organization: Organization, salad: Salad
) -> None:
    expect(200, organization.by_token().get("/users/me"))
    fetches = salad.jwks_fetches
    claims = salad.claims(organization.name, organization.group, "m")
    for _ in range(5):
        content = f"{encoded({'alg': 'RS256', 'kid': uuid.uuid4().hex})}.{encoded(claims)}"
        expect_error(403, organization.bearing(f"{content}.{'A' * 342}").get("/users/me"))
    assert salad.jwks_fetches == fetches


@pytest.mark.parametrize("written", ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "nonsense", "Bearer a b"])
def test_an_authorization_of_another_kind_is_refused(organization: Organization, written: str) -> None:
    headers = {"Authorization": written, "Salad-Project": PROJECT}
    answer = organization.by_token().with_headers(headers).get("/users/me")
    assert answer.status in (400, 401, 403)
    expect_error(answer.status, answer)


def test_a_job_submitted_with_a_salad_key_is_worked_on_with_a_token(organization: Organization) -> None:
    by_key, by_token = organization.by_key(), organization.by_token("m")
    job = by_key.submit()
    assert me(by_key) == me(by_token)
    [claimed] = by_token.claim("m")
    assert claimed["id"] == job["id"]
    assert by_token.report("heartbeat", job, "m", attempt=1).json == {"status": "running"}
    expect(200, by_token.report("released", job, "m", attempt=1))
    by_token.claim("m")
    expect(200, by_token.report("completed", job, "m", attempt=2))
    assert by_key.job(job)["status"] == by_token.job(job)["status"] == "completed"
    assert ids(by_token.listed()) == [job["id"]]
    for route in ("attempts", "events"):
        expect(200, by_token.get(f"/jobs/{job['id']}/{route}"))


def test_a_token_works_for_its_own_group_and_machine_only(organization: Organization) -> None:
    by_key, by_token = organization.by_key(), organization.by_token("m")
    other_group = str(uuid.uuid4())
    by_key.submit(container_group_id=other_group)
    by_key.submit()
    place = {"machine_id": "m", "container_group_id": organization.group}
    for wrong in ({"machine_id": "another"}, {"container_group_id": other_group}):
        expect_error(403, by_token.get("/work", **{**place, **wrong}))
    [job] = by_token.claim("m")
    before = by_key.job(job)
    for kind in ("heartbeat", "completed", "failed", "released"):
        expect_error(403, by_token.report(kind, job, "another"))
        expect_error(403, by_token.report(kind, job, "m", container_group_id=other_group))
    assert by_key.job(job) == before


def test_a_token_reads_the_jobs_of_its_own_group_only(organization: Organization) -> None:
    by_key, by_token = organization.by_key(), organization.by_token()
    own, other = by_key.submit(), by_key.submit(container_group_id=str(uuid.uuid4()))
    assert ids(by_token.listed()) == [own["id"]]
    expect(200, by_token.get(f"/jobs/{own['id']}"))
    expect_error(404, by_token.get(f"/jobs/{other['id']}"))
    for route in ("attempts", "events", "webhooks"):
        answer = by_token.get(f"/jobs/{other['id']}/{route}")
        assert answer.status in (403, 404)


# What a token may not do, unless the operator allows it; and what it may never.
CLOSED: list[tuple[str, str, bool]] = [
    ("POST", "/jobs", True),
    ("POST", "/job", True),
    ("POST", "/jobs/batch", True),
    ("DELETE", "/jobs/{id}", True),
    ("DELETE", "/jobs/container-groups/{group}", True),
    ("DELETE", "/jobs", False),
    ("POST", "/users", False),
    ("DELETE", "/users", False),
    ("DELETE", "/users/{id}", False),
    ("POST", "/users/{id}/token", False),
    ("GET", "/users/me/signing-secret", False),
    ("POST", "/users/me/signing-secret", False),
]


def call_closed(api: Api, method: str, path: str, job: Json) -> Any:
    body: Any = [api.definition()] if path == "/jobs/batch" else api.definition()
    target = path.format(id=job["id"], group=api.group)
    return api.call(method, target, body if method == "POST" else None)


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in CLOSED])
def test_a_token_may_not_submit_cancel_or_administer(organization: Organization, method: str, path: str) -> None:
    by_key = organization.by_key()
    job = by_key.submit()
    expect_error(403, call_closed(organization.by_token(), method, path, job))
    assert by_key.listed() == [job]


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path, openable in CLOSED if not openable or method == "POST"]
)
def test_the_operator_may_let_tokens_submit(elsewhere: Organization, method: str, path: str) -> None:
    openable = {(closed[0], closed[1]) for closed in CLOSED if closed[2]}
    answer = call_closed(elsewhere.by_token(), method, path, elsewhere.by_key().submit())
    expect(202 if (method, path) in openable else 403, answer)


def test_the_operator_may_let_tokens_cancel(elsewhere: Organization) -> None:
    job = elsewhere.by_key().submit()
    expect(202, elsewhere.by_token().delete(f"/jobs/{job['id']}"))
    assert elsewhere.by_key().job(job)["status"] == "canceled"


def test_the_operator_may_relax_which_group_and_machine_a_token_works_for(elsewhere: Organization) -> None:
    other_group = str(uuid.uuid4())
    job = elsewhere.by_key().submit(container_group_id=other_group)
    by_token = elsewhere.by_token("m")
    assert ids(by_token.claim("another", other_group)) == [job["id"]]
    answer = by_token.report("completed", job, "another", container_group_id=other_group)
    assert expect(200, answer).json == {"message": "Completed reported"}


def test_a_token_gets_jobs_of_the_null_group_where_its_workload_is_found(organization: Organization) -> None:
    job = organization.by_key().submit(container_group_id=None)
    by_token = organization.by_token("m")
    claimed = wait_for(lambda: by_token.claim("m"), "the workload to be looked up", timeout=10)
    assert ids(claimed) == [job["id"]]


def test_a_token_gets_no_job_of_the_null_group_of_a_project_that_it_only_claims(
    organization: Organization,
) -> None:
    by_key = organization.by_key("another-project")
    anyone = by_key.submit(container_group_id=None)
    own = by_key.submit()
    by_token = organization.by_token("m", project="another-project")
    assert ids(by_token.claim("m")) == [own["id"]]
    assert by_token.claim("m", wait=1) == []
    assert by_key.job(anyone)["status"] == "pending"


# --- several at once

KELPIE, SALAD, TOKEN = "kelpie", "salad", "token"
WINNERS: list[tuple[dict[str, bool], str | None]] = [
    ({KELPIE: True, SALAD: True, TOKEN: True}, KELPIE),
    ({KELPIE: True, SALAD: False, TOKEN: False}, KELPIE),
    ({KELPIE: False, SALAD: True, TOKEN: True}, None),
    ({SALAD: True, TOKEN: True}, SALAD),
    ({SALAD: True, TOKEN: False}, SALAD),
    ({SALAD: False, TOKEN: True}, None),
    ({KELPIE: False, TOKEN: True}, None),
]


@pytest.mark.parametrize(("given", "winner"), WINNERS)
def test_of_several_credentials_the_first_wins_or_is_refused(
    organization: Organization, user: User, salad: Salad, given: dict[str, bool], winner: str | None
) -> None:
    """A Kelpie key before a Salad key before a token, whether it is good or not."""
    third = new_organization(organization.stack, salad)
    headers: dict[str, str] = {}
    if TOKEN in given:
        headers |= third.by_token().headers if given[TOKEN] else third.bearing("nonsense").headers
    if SALAD in given:
        headers |= organization.by_key(key=None if given[SALAD] else "wrong").headers
    if KELPIE in given:
        headers |= {"X-Kelpie-Key": user.key() if given[KELPIE] else "wrong"}
    answer = organization.stack.caller(headers).get("/users/me")
    if winner is None:
        expect_error(403, answer)
    else:
        names = {KELPIE: user.username, SALAD: organization.name}
        assert expect(200, answer).json["username"] == names[winner]


def test_a_user_of_an_organization_is_made_once_however_many_ask_at_once(organization: Organization) -> None:
    callers = [organization.by_key(), organization.by_token(), organization.by_key("another-project")] * 6
    with ThreadPoolExecutor(len(callers)) as pool:
        users = list(pool.map(me, callers))
    assert users == [users[0]] * len(users)
    assert users[0]["username"] == organization.name


def test_the_project_of_a_salad_key_is_part_of_the_tenant(organization: Organization) -> None:
    job = organization.by_key().submit()
    expect_error(404, organization.by_key("another-project").get(f"/jobs/{job['id']}"))


# --- the users' routes


def test_a_user_sees_itself(api: Api, user: User) -> None:
    seen = me(api)
    assert set(seen) == {"id", "username", "created"}
    assert (seen["id"], seen["username"]) == (user.id, user.username)
    assert TIME.fullmatch(seen["created"])


def test_the_admin_sees_itself(admin: Api) -> None:
    assert set(me(admin)) == {"id", "username", "created"}


def test_the_admin_makes_users(admin: Api) -> None:
    name = unique("user")
    user = expect(201, admin.post("/users", {"username": name})).json
    assert set(user) == {"id", "username", "created"}
    assert user["username"] == name
    assert TIME.fullmatch(user["created"])


def test_a_user_that_exists_is_not_made_again(admin: Api, user: User, organization: Organization) -> None:
    expect_error(400, admin.post("/users", {"username": user.username}))
    expect(200, organization.by_key().get("/users/me"))
    expect_error(400, admin.post("/users", {"username": organization.name}))


@pytest.mark.parametrize("body", [{}, {"username": ""}, {"username": 5}, {"username": None}, [], "x", None])
def test_a_user_needs_a_name(admin: Api, body: Any) -> None:
    expect_error(400, admin.post("/users", body))


def test_the_admin_makes_keys_that_work(admin: Api, user: User) -> None:
    names = {"org_name": "acme", "project_name": "default"}
    answer = expect(201, admin.post(f"/users/{user.id}/token", names)).json
    assert set(answer) == {"token"}
    assert me(user.stack.caller({"X-Kelpie-Key": answer["token"]}))["id"] == user.id


@pytest.mark.parametrize("missing", ["org_name", "project_name"])
@pytest.mark.parametrize("value", [None, "", 5])
def test_a_key_is_for_an_organization_and_a_project(admin: Api, user: User, missing: str, value: Any) -> None:
    names = {"org_name": "acme", "project_name": "default", missing: value}
    if value is None:
        del names[missing]
    expect_invalid(missing, admin.post(f"/users/{user.id}/token", names))


@pytest.mark.parametrize("user_id", ["9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77", "nonsense", "1"])
def test_a_key_for_an_unknown_user_is_404(admin: Api, user_id: str) -> None:
    names = {"org_name": "acme", "project_name": "default"}
    expect_error(404, admin.post(f"/users/{user_id}/token", names))


ADMINS_ROUTES = [
    ("POST", "/users", {"username": "somebody"}),
    ("POST", "/users/{id}/token", {"org_name": "acme", "project_name": "default"}),
    ("DELETE", "/users", None),
    ("DELETE", "/users/{id}", None),
    ("DELETE", "/jobs", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ADMINS_ROUTES)
def test_who_is_not_the_admin_may_not_do_what_the_admin_does(
    user: User, organization: Organization, method: str, path: str, body: Json | None
) -> None:
    for api in (user.api(), organization.by_key(), organization.by_token()):
        expect_error(403, api.call(method, path.format(id=user.id), body))
    assert me(user.api())["id"] == user.id


def test_the_admin_removes_all_users_but_itself(other_stack: Stack, elsewhere: Organization) -> None:
    user = other_stack.new_user()
    api = user.api()
    api.claimed("m")
    by_key = elsewhere.by_key()
    by_key.submit()
    answer = expect(204, other_stack.admin.delete("/users"))
    assert answer.body == b""
    wait_for(lambda: api.get("/users/me").status == 403, "the key to be refused", timeout=40)
    expect(200, other_stack.admin.get("/users/me"))
    expect_error(404, other_stack.admin.post(f"/users/{user.id}/token", {"org_name": "a", "project_name": "b"}))
    # An organization's user is made again on sight, or refused; it never breaks the server.
    assert wait_for(lambda: by_key.get("/jobs"), "an answer").status in (200, 403)
    expect(201, other_stack.admin.post("/users", {"username": user.username}))


def test_the_admin_removes_one_user_with_its_keys_and_jobs(stack: Stack, admin: Api) -> None:
    leaving = stack.new_user()
    its, others = leaving.api(), stack.new_api()
    job, kept = its.claimed("m"), others.submit()
    assert expect(204, admin.delete(f"/users/{leaving.id}")).body == b""
    expect_error(404, admin.get(f"/jobs/{job['id']}"))
    expect_error(404, admin.delete(f"/users/{leaving.id}"))
    wait_for(lambda: its.get("/users/me").status == 403, "the key to be refused", timeout=40)
    assert others.job(kept) == kept


@pytest.mark.parametrize("user_id", ["9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77", "nonsense", "me"])
def test_a_user_that_is_unknown_cannot_be_removed(admin: Api, user_id: str) -> None:
    expect_error(404, admin.delete(f"/users/{user_id}"))


def test_the_admin_cannot_remove_itself(admin: Api) -> None:
    own = me(admin)
    expect_error(409, admin.delete(f"/users/{own['id']}"))
    assert me(admin) == own


@pytest.mark.parametrize("header", ["Authorization", "Salad-Api-Key"])
def test_a_key_in_the_header_of_another_credential_is_told_its_own(nobody: Api, user: User, header: str) -> None:
    key = user.key()
    for value in (key, f"Bearer {key}") if header == "Authorization" else (key,):
        assert "X-Kelpie-Key" in expect_error(403, nobody.call("GET", "/jobs", headers={header: value}))["message"]
