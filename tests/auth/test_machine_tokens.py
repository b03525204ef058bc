"""The tokens of Salad's machines: what proves one, what it may do, and whence the keys
(docs/design/protocol.md, Callers)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.auth.authenticator import Authenticator
from kelpie_api.auth.jwks import FRESH_FOR, MOST_KEYS, REFETCHES_AT_ONCE, SEVERAL, STALE_AFTER, STALE_FOR, KeyRing
from kelpie_api.auth.salad_keys import SaladKeys
from kelpie_api.config import Config
from kelpie_api.db import Database
from kelpie_api.salad.request_budget import AUTOSCALER, RequestBudget
from kelpie_api.web import access
from kelpie_api.web.sessions import is_page
from local_stack.processes import wait_for
from tests.doubles.double import Answer, page
from tests.doubles.salad import SaladDouble, trouble
from tests.doubles.tokens import SigningKey, TokenDouble, json_of
from tests.helpers import (
    Client,
    Tenant,
    at_once,
    definition,
    make_job,
    make_tenant,
    refused,
    with_salad_key,
    with_token,
)

OWN_KEY = "the-coordinators-own-salad-key"
SALAD_KEY = "salad-key"
DAY = 24 * 3600.0


@pytest.fixture
def settings(salad: SaladDouble, tokens: TokenDouble) -> dict[str, Any]:
    salad.allow(OWN_KEY, "acme", "default")
    salad.allow(SALAD_KEY, "acme", "default")
    return {"salad_api_url": salad.api_url, "salad_jwks_url": tokens.jwks_url, "salad_api_key": OWN_KEY}


@pytest.fixture
def machine(app: Flask, tokens: TokenDouble) -> Client:
    """A client that calls with a fresh token of the machine."""
    return with_token(app, tokens.token())


@pytest.fixture
def keys(app: Flask) -> KeyRing:
    ring: KeyRing = app.extensions["kelpie"].authenticator.tokens.keys
    return ring


@pytest.fixture
def keys_grow_old(keys: KeyRing, db: Database) -> Callable[[float], None]:
    """Let time pass: the keys were fetched, and asked for, so many seconds earlier."""

    def pass_time(seconds: float) -> None:
        keys.fetched -= seconds
        keys.ask_again -= seconds
        keys.refetches.next_at -= seconds
        db.execute("update jwks set fetched = fetched - %(s)s * interval '1 second'", s=seconds)

    return pass_time


def status(client: Client) -> int:
    return client.get("/users/me").status_code


def work(client: Client, tokens: TokenDouble, **other: str) -> Any:
    named = {"machine_id": tokens.machine, "container_group_id": tokens.workload} | other
    return client.get("/work?" + "&".join(f"{name}={value}" for name, value in named.items()))


def claimed(client: Client, tokens: TokenDouble, **other: str) -> list[str]:
    answer = work(client, tokens, **other)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json]


def by_another_key(tokens: TokenDouble, **changes: Any) -> str:
    """A token that is right in everything but its signature."""
    return jwt.encode(tokens.claims(**changes), SigningKey().private, "ES256", {"kid": tokens.key.kid})


def part(value: Any) -> str:
    return encoded(json.dumps(value).encode())


def signed_with_the_public_key(tokens: TokenDouble) -> str:
    """HS256 with the public key, which every client can read, as its secret."""
    public = tokens.key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    told = f"{part({'alg': 'HS256', 'kid': tokens.key.kid})}.{part(tokens.claims())}"
    signature = hmac.digest(public, told.encode(), hashlib.sha256)
    return f"{told}.{encoded(signature)}"


def with_header(tokens: TokenDouble, header: str, **claims: Any) -> str:
    """A token that the right key signs, with this header, which need not be one that a library writes."""
    told = base64.urlsafe_b64encode(header.encode("utf-8", "surrogatepass")).rstrip(b"=").decode()
    told += f".{part(tokens.claims(**claims))}"
    return f"{told}.{encoded(jwt.get_algorithm_by_name('ES256').sign(told.encode(), tokens.key.private))}"


def with_kid(kid: Any) -> Callable[[TokenDouble], str]:
    return lambda tokens: with_header(tokens, json.dumps({"alg": "ES256", "kid": kid}))


def with_header_of_known(**other: Any) -> Callable[[TokenDouble], str]:
    """Right but for its header, which names the key that has signed, too."""
    return lambda tokens: with_header(tokens, json.dumps({"alg": "ES256", "kid": tokens.key.kid} | other))


def with_claims(**claims: Any) -> Callable[[TokenDouble], str]:
    """As a library refuses to write it."""
    return lambda tokens: with_header(tokens, json.dumps({"alg": "ES256", "kid": tokens.key.kid}), **claims)


def signed_with(signature: bytes) -> Callable[[TokenDouble], str]:
    return lambda tokens: f"{tokens.token().rpartition('.')[0]}.{encoded(signature)}"


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def with_its_own_key(tokens: TokenDouble) -> str:
    own = SigningKey()
    return jwt.encode(tokens.claims(), own.private, "ES256", {"kid": own.kid, "jwk": own.jwk})


def with_the_address_of_its_own_key(tokens: TokenDouble) -> str:
    own = SigningKey()
    header = {"kid": own.kid, "jku": tokens.url + "/own", "x5u": tokens.url + "/own"}
    return jwt.encode(tokens.claims(), own.private, "ES256", header)


def tampered(tokens: TokenDouble) -> str:
    header, _, signature = tokens.token().split(".")
    return f"{header}.{part(tokens.claims(salad_workload_id=str(uuid.uuid4())))}.{signature}"


def now() -> int:
    return int(time.time())


FORGED: dict[str, Callable[[TokenDouble], str]] = {
    "signed by another": by_another_key,
    "HS256 with the public key": signed_with_the_public_key,
    "an embedded key": with_its_own_key,
    "the address of a key": with_the_address_of_its_own_key,
    "tampered with": tampered,
    "no signature": lambda tokens: tokens.token().rpartition(".")[0] + ".",
    "alg none": lambda tokens: f"{part({'alg': 'none'})}.{part(tokens.claims())}.",
    "alg None": lambda tokens: f"{part({'alg': 'None', 'kid': tokens.key.kid})}.{part(tokens.claims())}.",
    "another curve": lambda tokens: jwt.encode(
        tokens.claims(), ec.generate_private_key(ec.SECP384R1()), "ES384", {"kid": tokens.key.kid}
    ),
    "an unknown key": lambda tokens: jwt.encode(tokens.claims(), tokens.key.private, "ES256", {"kid": "unknown"}),
    "another issuer": lambda tokens: tokens.token(iss="https://elsewhere"),
    "nearly the issuer": lambda tokens: tokens.token(iss="https://matrix-api.salad.io/"),
    "another audience": lambda tokens: tokens.token(aud=str(uuid.uuid4())),
    "more audiences": lambda tokens: tokens.token(aud=[tokens.organization_id, "another"]),
    "no audience in the list": lambda tokens: tokens.token(aud=[]),
    "expired": lambda tokens: tokens.token(exp=now() - 60),
    "from the future": lambda tokens: tokens.token(iat=now() + 600),
    "not valid yet": lambda tokens: tokens.token(nbf=now() + 600),
    "no time": lambda tokens: tokens.token(exp="soon"),
    "an endless time": lambda tokens: tokens.token(exp=float("inf")),
    "an empty workload": lambda tokens: tokens.token(salad_workload_id=""),
    "an empty machine": lambda tokens: tokens.token(salad_machine_id=""),
    "a workload that is no text": lambda tokens: tokens.token(salad_workload_id=["", "g1"]),
    "an organization with a NUL": lambda tokens: tokens.token(salad_organization_name="ac\0me"),
    "an organization of half a character": lambda tokens: tokens.token(salad_organization_name="\ud800"),
    "a very long organization": lambda tokens: tokens.token(salad_organization_name="x" * 256),
    "an extension": lambda tokens: jwt.encode(
        tokens.claims(), tokens.key.private, "ES256", {"kid": tokens.key.kid, "crit": ["exp"], "exp": 1}
    ),
    "very long": lambda tokens: tokens.token(padding="x" * 10_000),
    "nested brackets": lambda tokens: "W" * 8000 + ".e30.x",
    "a list for a header": lambda tokens: f"{part([])}.{part(tokens.claims())}.x",
    "garbage": lambda tokens: "garbage",
    "dots": lambda tokens: "..",
    "many dots": lambda tokens: "." * 8000,
    "not ASCII": lambda tokens: "ÿþ.ÿþ.ÿþ",
    "two tokens": lambda tokens: f"{tokens.token()} {tokens.token()}",
}
# Signed by the right key, so that nothing but what the name says is wrong.
STRANGE: dict[str, Callable[[TokenDouble], str]] = {
    "a number for a kid": with_kid(5),
    "a list for a kid": with_kid(["a"]),
    "an object for a kid": with_kid({"a": 1}),
    "null for a kid": with_kid(None),
    "an empty kid": with_kid(""),
    "a huge kid": with_kid("x" * 5000),
    "a path for a kid": with_kid("../../../../dev/null"),
    "an address for a kid": with_kid("http://169.254.169.254/latest"),
    "SQL for a kid": with_kid("' or kid is not null --"),
    "a NUL in the kid": with_kid("a\0b"),
    "half a character for a kid": with_kid("\ud800"),
    "a list for an alg": with_header_of_known(alg=["ES256"]),
    "an object for an alg": with_header_of_known(alg={"ES256": 1}),
    "alg in small letters": with_header_of_known(alg="es256"),
    "alg of a secret": with_header_of_known(alg="HS256"),
    "no alg": with_header_of_known(alg=None),
    "a body outside": with_header_of_known(b64=False),
    "an extension of its own": with_header_of_known(crit=["b64"], b64=True),
    "two algs, the last none": lambda tokens: with_header(
        tokens, f'{{"alg": "ES256", "kid": "{tokens.key.kid}", "alg": "none"}}'
    ),
    "two kids, the last unknown": lambda tokens: with_header(
        tokens, f'{{"alg": "ES256", "kid": "{tokens.key.kid}", "kid": "unknown"}}'
    ),
    "a signature of noughts": signed_with(bytes(64)),
    "a signature in ASN.1": lambda tokens: signed_with(
        tokens.key.private.sign(tokens.token().rpartition(".")[0].encode(), ec.ECDSA(hashes.SHA256()))
    )(tokens),
    "a subject that is a number": lambda tokens: tokens.token(sub=5),
    "issuers in a list": with_claims(iss=["https://matrix-api.salad.io"]),
    "an audience that is an object": lambda tokens: tokens.token(aud={tokens.organization_id: 1}),
    "an audience within a list": lambda tokens: tokens.token(aud=[[tokens.organization_id]]),
    "a truth for a time": lambda tokens: tokens.token(exp=True),
    "a time before all": lambda tokens: tokens.token(exp=-1),
    "an endless time of issue": lambda tokens: tokens.token(iat=float("inf")),
    "no number for its beginning": lambda tokens: tokens.token(nbf=float("nan")),
}
CLAIMS = [
    *("iss", "aud", "sub", "iat", "nbf", "exp"),
    *("salad_organization_name", "salad_organization_id", "salad_workload_id", "salad_machine_id"),
]


class TestAForgedToken:
    @pytest.mark.parametrize("kind", FORGED)
    def test_is_a_403_and_makes_no_user(self, app: Flask, db: Database, tokens: TokenDouble, kind: str) -> None:
        refused(with_token(app, FORGED[kind](tokens)).get("/users/me"), 403)
        assert db.all("select from users where not is_admin") == []
        assert "/own" not in tokens.asked

    def test_is_one_that_is_strange_in_any_way(self, app: Flask, db: Database, tokens: TokenDouble) -> None:
        """Each is refused, at the cost of few fetches, and a good one accepted: no known key is pushed out."""
        good = with_token(app, tokens.token())
        for name, make in STRANGE.items():
            answer = with_token(app, make(tokens)).get("/users/me")
            # Unknown keys are asked for so often; then it is not known that there is none.
            assert answer.status_code == 403 or ("kid" in name and answer.status_code == 503), (name, answer.text)
            assert status(good) == 200
        assert tokens.fetches <= 1 + REFETCHES_AT_ONCE
        assert len(db.all("select from users where not is_admin")) == 1

    @pytest.mark.parametrize("claim", CLAIMS)
    def test_is_one_that_lacks_a_claim(self, app: Flask, tokens: TokenDouble, claim: str) -> None:
        message = refused(with_token(app, tokens.token(**{claim: None})).get("/users/me"), 403)["message"]
        assert claim in message

    @pytest.mark.parametrize("kind", ["alg none", "HS256 with the public key", "another curve", "garbage"])
    def test_is_refused_before_any_key_is_fetched_where_its_algorithm_is_not_allowed(
        self, app: Flask, tokens: TokenDouble, kind: str
    ) -> None:
        refused(with_token(app, FORGED[kind](tokens)).get("/users/me"), 403)
        assert tokens.fetches == 0

    def test_does_not_spend_the_answer_of_a_good_one(self, app: Flask, tokens: TokenDouble) -> None:
        """Nothing is remembered of a token that would let another pass."""
        assert status(with_token(app, tokens.token())) == 200
        assert status(with_token(app, tampered(tokens))) == 403


class TestAGoodToken:
    def test_may_name_its_audience_in_a_list(self, app: Flask, tokens: TokenDouble) -> None:
        assert status(with_token(app, tokens.token(aud=[tokens.organization_id]))) == 200

    def test_may_come_from_a_clock_that_is_seconds_ahead(self, app: Flask, tokens: TokenDouble) -> None:
        assert status(with_token(app, tokens.token(iat=now() + 5, nbf=now() + 5))) == 200

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_is_sent_as_a_bearer_in_any_case(self, app: Flask, tokens: TokenDouble, scheme: str) -> None:
        headers = {"Authorization": f"{scheme} {tokens.token()}", "Salad-Project": "default"}
        assert status(Client(app.test_client(), None, headers)) == 200

    @pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "token"])
    def test_is_not_what_is_sent_otherwise(self, app: Flask, header: str) -> None:
        headers = {"Authorization": header, "Salad-Project": "default"}
        refused(Client(app.test_client(), None, headers).get("/jobs"), 401)

    def test_needs_a_project_beside_it(self, app: Flask, tokens: TokenDouble) -> None:
        for project in (None, ""):
            body = refused(with_token(app, tokens.token(), project).get("/jobs"), 400)
            assert body["errors"].keys() == {"Salad-Project"}

    @pytest.mark.parametrize("project", ["x" * 256, "a\tb", "\x80"])
    def test_needs_a_project_that_can_be_one(self, app: Flask, tokens: TokenDouble, project: str) -> None:
        refused(with_token(app, tokens.token(), project).get("/jobs"), 400)

    def test_is_never_the_administrator(self, app: Flask, tokens: TokenDouble) -> None:
        client = with_token(app, tokens.token(salad_organization_name="admin"))
        assert "administrator" in refused(client.get("/jobs"), 403)["message"]


class TestWork:
    def test_submitted_with_a_salad_key_is_done_by_a_machine(
        self, app: Flask, machine: Client, tokens: TokenDouble, db: Database
    ) -> None:
        user = with_salad_key(app, SALAD_KEY)
        job = user.submit(container_group_id=tokens.workload, webhook="http://receiver/")
        assert claimed(machine, tokens) == [job["id"]]
        for what in ("heartbeat", "completed"):
            answer = machine.report(job, what, tokens.machine, tokens.workload, attempt=1)
            assert answer.status_code == 200
        assert (user.get(f"/jobs/{job['id']}").json or {})["status"] == "completed"
        assert {row["sealed_key"] for row in db.all("select sealed_key from webhooks")} == {None}
        actors = {row["actor"] for row in db.all("select actor from events where kind <> 'submitted'")}
        assert actors == {f"machine:{tokens.machine}"}

    @pytest.mark.parametrize("what", ["heartbeat", "completed", "failed", "released"])
    @pytest.mark.parametrize("name", ["machine", "group"])
    def test_is_reported_by_the_machine_and_the_group_of_the_token(
        self, app: Flask, machine: Client, tokens: TokenDouble, what: str, name: str
    ) -> None:
        job = with_salad_key(app, SALAD_KEY).submit(container_group_id=tokens.workload)
        claimed(machine, tokens)
        named = {"machine": tokens.machine, "group": tokens.workload} | {name: "another"}
        refused(machine.report(job, what, **named, attempt=1), 403)
        assert machine.report(job, "heartbeat", tokens.machine, tokens.workload).json == {"status": "running"}

    def test_of_another_group_is_unknown(
        self, app: Flask, machine: Client, tokens: TokenDouble, db: Database
    ) -> None:
        job = with_salad_key(app, SALAD_KEY).submit(container_group_id="another-group")
        assert claimed(machine, tokens) == []
        refused(machine.get(f"/jobs/{job['id']}"), 404)
        assert (machine.get("/jobs").json or {})["jobs"] == []
        for what in ("heartbeat", "completed", "failed", "released"):
            refused(machine.report(job, what, tokens.machine, tokens.workload, attempt=1), 404)

    def test_of_another_organization_is_unknown(
        self, app: Flask, machine: Client, tokens: TokenDouble, db: Database
    ) -> None:
        job_id = make_job(db, make_tenant(db, "rival", "default"), "pending", group=tokens.workload)
        assert claimed(machine, tokens) == []
        refused(machine.get(f"/jobs/{job_id}"), 404)


NO_ANSWERS: dict[str, Answer] = {
    "429": trouble(429, "Too Many Requests", Retry_After="30"),
    "500": trouble(500, "Error"),
    "HTML": page(200),
    "a wrong key of ours": trouble(401, "Unauthorized"),
}


class TestTheNullGroup:
    def test_serves_a_machine_whose_group_is_in_the_project(
        self, app: Flask, salad: SaladDouble, machine: Client, tokens: TokenDouble
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        job = with_salad_key(app, SALAD_KEY).submit(container_group_id=None)
        assert machine.get(f"/jobs/{job['id']}").status_code == 200
        assert claimed(machine, tokens) == [job["id"]]
        assert machine.report(job, "completed", tokens.machine, tokens.workload, attempt=1).status_code == 200

    def test_does_not_serve_a_machine_that_only_claims_to_be_of_the_project(
        self, app: Flask, salad: SaladDouble, machine: Client, tokens: TokenDouble
    ) -> None:
        salad.allow(OWN_KEY, "acme", "other")
        salad.add_group("acme", "default", str(uuid.uuid4()))
        salad.add_group("acme", "other", tokens.workload)
        job = with_salad_key(app, SALAD_KEY).submit(container_group_id=None)
        assert claimed(machine, tokens) == []
        refused(machine.get(f"/jobs/{job['id']}"), 404)

    @pytest.mark.parametrize("project", ["..", "Default", "a/b"])
    def test_is_not_looked_for_where_no_project_can_be(
        self, app: Flask, salad: SaladDouble, tokens: TokenDouble, project: str
    ) -> None:
        assert claimed(with_token(app, tokens.token(), project), tokens) == []
        assert not salad.asked

    def test_is_looked_for_only_when_salad_may_be_asked(
        self, app: Flask, db: Database, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        """The look-up is the coordinator's request like any other."""
        salad.add_group("acme", "default", tokens.workload)
        RequestBudget(db, AUTOSCALER).reserve()
        db.execute("update salad_requests set silent_until = now() + interval '50 seconds'")
        assert claimed(with_token(app, tokens.token()), tokens) == []
        assert not salad.asked

    def test_is_refused_where_the_coordinator_has_no_key(
        self, config: Config, salad: SaladDouble, tokens: TokenDouble, capsys: pytest.CaptureFixture[str]
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        app = create_app(replace(config, salad_api_key=None))
        job = with_salad_key(app, SALAD_KEY).submit(container_group_id=None)
        for _ in range(2):
            assert claimed(with_token(app, tokens.token()), tokens) == []
        refused(with_token(app, tokens.token()).get(f"/jobs/{job['id']}"), 404)
        assert capsys.readouterr().err.count('"no_salad_api_key"') == 1
        app.extensions["kelpie"].end()

    def test_is_looked_for_once_in_some_minutes(
        self, salad: SaladDouble, machine: Client, tokens: TokenDouble
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        for _ in range(3):
            claimed(machine, tokens)
        assert len(salad.asked) == 1

    @pytest.mark.parametrize("answer", NO_ANSWERS)
    def test_waits_for_salad_and_nothing_else_does(
        self, app: Flask, salad: SaladDouble, machine: Client, tokens: TokenDouble, answer: str
    ) -> None:
        user = with_salad_key(app, SALAD_KEY)
        user.submit(container_group_id=None)
        own = user.submit(container_group_id=tokens.workload)
        salad.instead = NO_ANSWERS[answer]
        assert claimed(machine, tokens) == [own["id"]]
        assert claimed(machine, tokens) == []

    def test_is_served_on_while_salad_is_away(
        self, app: Flask, salad: SaladDouble, machine: Client, tokens: TokenDouble, db: Database
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        assert claimed(machine, tokens) == []
        salad.stop()
        salad_keys: SaladKeys = app.extensions["kelpie"].authenticator.salad_keys
        salad_keys.remembered.clear()
        db.execute("update salad_proofs set proven = proven - interval '23 hours'")
        job_id = make_job(db, make_tenant(db, "acme", "default"), "pending", group=None)
        assert claimed(machine, tokens) == [str(job_id)]

    def test_is_served_when_salad_answers_at_last(
        self, salad: SaladDouble, machine: Client, tokens: TokenDouble, db: Database
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        job_id = make_job(db, make_tenant(db, "acme", "default"), "pending", group=None)
        salad.hold()
        assert claimed(machine, tokens) == []
        salad.let_go()
        wait_for(lambda: claimed(machine, tokens) == [str(job_id)], "the group to be found", pause=0.05)


class TestWhatATokenMayDo:
    def test_everything_else_is_closed(self, app: Flask, machine: Client) -> None:
        open_to = {endpoint for endpoint, to in access.OPEN.items() if to & (access.To.ALL | access.To.TOKENS)}
        for rule in app.url_map.iter_rules():
            if rule.endpoint in open_to or is_page(rule.endpoint):
                continue
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                path = rule.rule
                for name in rule.arguments:
                    path = path.replace(f"<{name}>", str(uuid.uuid4()))
                assert machine.call(method, path, {}).status_code == 403, (method, rule.rule)

    def test_it_reads_secrets_of_the_job_that_its_machine_holds_and_of_no_other(
        self, app: Flask, machine: Client, tokens: TokenDouble
    ) -> None:
        """The owner of a node can read its token: other machines' jobs are none of theirs."""
        user = with_salad_key(app, SALAD_KEY)
        secret = {"environment": {"HF_TOKEN": "hf_secret"}, "webhook": "https://me:hf_secret@example.com/hook"}
        job = user.submit(container_group_id=tokens.workload, **secret)

        def answers() -> list[str]:
            paths = [f"/jobs/{job['id']}", "/jobs", f"/jobs/{job['id']}/attempts", f"/jobs/{job['id']}/events"]
            return [machine.get(path).text for path in paths]

        assert not any("hf_secret" in text for text in answers())
        assert (machine.get(f"/jobs/{job['id']}").json or {}) | secret == job
        user.claim("m2", tokens.workload)
        assert user.report(job, "failed", "m2", tokens.workload, 1, output="hf_secret").status_code == 202
        assert not any("hf_secret" in text for text in answers())
        [handed] = work(machine, tokens).json
        assert handed["environment"] == secret["environment"] and handed["webhook"] == secret["webhook"]
        assert ["hf_secret" in text for text in answers()] == [True, True, True, False]
        assert machine.report(job, "released", tokens.machine, tokens.workload, 2).status_code == 200
        assert not any("hf_secret" in text for text in answers())

    def test_unless_the_operator_allows_it(self, config: Config, salad: SaladDouble, tokens: TokenDouble) -> None:
        salad.add_group("acme", "default", tokens.workload)
        app = create_app(replace(config, jwt_can_submit=True))
        machine = with_token(app, tokens.token())
        job = machine.submit(container_group_id=tokens.workload)
        assert machine.delete(f"/jobs/{job['id']}").status_code == 202
        foreign = with_salad_key(app, SALAD_KEY).submit(container_group_id="another-group")
        refused(machine.delete(f"/jobs/{foreign['id']}"), 404)
        anybodys = with_salad_key(app, SALAD_KEY).submit(container_group_id=None)
        refused(machine.delete(f"/jobs/{anybodys['id']}"), 403)
        assert claimed(machine, tokens) == [anybodys["id"]]
        refused(machine.delete(f"/jobs/{anybodys['id']}"), 403)
        for group in ("another-group", None):
            refused(machine.post("/jobs", definition(container_group_id=group)), 403)
            own = definition(container_group_id=tokens.workload)
            refused(machine.post("/jobs/batch", [own, definition(container_group_id=group)]), 403)
        refused(machine.delete("/jobs"), 403)
        user = with_salad_key(app, SALAD_KEY)
        assert user.call("PUT", "/secrets/HF_TOKEN", {"value": "hf_secret"}).status_code == 200
        naming = definition(container_group_id=tokens.workload, secrets=["HF_TOKEN"])
        assert "secrets" in refused(machine.post("/jobs", naming), 403)["message"]
        sweep = (user.post("/sweeps", {}).json or {})["id"]
        for named in ({"sweep": sweep}, {"depends_on": [job["id"]]}):
            own = definition(container_group_id=tokens.workload, **named)
            refused(machine.post("/jobs", own), 403)
            refused(machine.post("/jobs/batch", [own]), 403)
        for method, path in (("GET", "/secrets"), ("PUT", "/secrets/A"), ("GET", "/keys"), ("POST", "/keys")):
            refused(machine.call(method, path, {"value": "x"}), 403)
        assert user.post("/jobs", naming).status_code == 202
        [handed] = work(machine, tokens).json
        assert handed["environment"] == {"HF_TOKEN": "hf_secret"}
        assert (machine.get(f"/jobs/{handed['id']}").json or {})["environment"] == {}
        app.extensions["kelpie"].end()

    def test_it_works_for_any_group_where_the_operator_is_not_strict(
        self, config: Config, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        salad.add_group("acme", "default", tokens.workload)
        app = create_app(replace(config, jwt_strict=False))
        machine, user = with_token(app, tokens.token()), with_salad_key(app, SALAD_KEY)
        job = user.submit(container_group_id="another-group")
        user.submit(container_group_id=None)
        other = {"machine_id": "m9", "container_group_id": "another-group"}
        assert claimed(machine, tokens, **other) == [job["id"]]
        assert machine.report(job, "completed", "m9", "another-group", attempt=1).status_code == 200
        assert len(claimed(machine, tokens, **other)) == 1
        assert len((machine.get("/jobs").json or {})["jobs"]) == 2
        refused(machine.delete("/jobs"), 403)
        app.extensions["kelpie"].end()

    def test_and_in_a_project_that_it_only_names_for_other_machines_of_its_group(
        self, config: Config, tokens: TokenDouble
    ) -> None:
        app = create_app(replace(config, jwt_strict=False))
        machine, user = with_token(app, tokens.token()), with_salad_key(app, SALAD_KEY)
        own = user.submit(container_group_id=tokens.workload)
        others = [user.submit(container_group_id=group) for group in ("another-group", None)]
        assert (machine.get("/jobs").json or {})["jobs"] == [own]
        assert claimed(machine, tokens, container_group_id="another-group") == []
        for job in others:
            refused(machine.get(f"/jobs/{job['id']}"), 404)
            refused(machine.report(job, "failed", "m9", "another-group"), 404)
            ignored = machine.report(job, "completed", "m9", "another-group")
            assert (ignored.json or {})["message"].startswith("Ignored: ")
            assert user.get(f"/jobs/{job['id']}").json == job
        assert claimed(machine, tokens, machine_id="m9") == [own["id"]]
        assert machine.report(own, "completed", "m9", tokens.workload, attempt=1).status_code == 200
        app.extensions["kelpie"].end()


class TestAProjectThatATokenMakesUp:
    @pytest.fixture
    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {"jwt_can_submit": True}

    def test_is_empty_and_not_kept(
        self, app: Flask, db: Database, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        salad.allow(OWN_KEY, "acme", "made-up")
        machine = with_token(app, tokens.token(), "made-up")
        assert (machine.get("/users/me").json or {})["username"] == "acme"
        assert (machine.get("/jobs").json or {})["jobs"] == []
        assert claimed(machine, tokens) == []
        refused(machine.get(f"/jobs/{uuid.uuid4()}"), 404)
        for path, body in (
            ("/jobs", definition(container_group_id=tokens.workload)),
            ("/jobs/batch", [definition(container_group_id=tokens.workload)]),
        ):
            assert "made-up" in refused(machine.post(path, body), 403)["message"]
        assert db.all("select from tenants where project = 'made-up'") == []

    def test_costs_few_questions_however_many_there_are(
        self, app: Flask, db: Database, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        for number in range(100):
            assert claimed(with_token(app, tokens.token(), f"made-up-{number}"), tokens) == []
        assert len(salad.asked) <= 5
        assert db.all("select from tenants where project like 'made-up%%'") == []

    def test_takes_no_question_from_another_workload(
        self, app: Flask, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        for number in range(10):
            with_token(app, tokens.token(), f"made-up-{number}").get("/users/me")
        another = salad.add_group("acme", "default")
        machine = with_token(app, tokens.token(salad_workload_id=another))
        assert machine.submit(container_group_id=another)

    def test_is_the_organizations_once_its_key_comes(
        self, app: Flask, salad: SaladDouble, tokens: TokenDouble
    ) -> None:
        machine, user = with_token(app, tokens.token(), "new"), with_salad_key(app, SALAD_KEY, project="new")
        assert claimed(machine, tokens) == []
        salad.allow(SALAD_KEY, "acme", "new")
        job = user.submit(container_group_id=tokens.workload)
        assert claimed(machine, tokens) == [job["id"]]


class TestTheKeys:
    def test_are_fetched_once_however_many_ask_at_once(self, app: Flask, tokens: TokenDouble) -> None:
        token = tokens.token()
        assert at_once([lambda: status(with_token(app, token)) for _ in range(12)]) == [200] * 12
        assert tokens.fetches == 1

    def test_are_shared_by_all_processes(self, machine: Client, config: Config, tokens: TokenDouble) -> None:
        assert status(machine) == 200
        another = create_app(config)
        assert status(with_token(another, tokens.token())) == 200
        assert tokens.fetches == 1
        another.extensions["kelpie"].end()

    def test_are_fetched_at_once_when_a_new_one_signs(self, app: Flask, tokens: TokenDouble) -> None:
        old = tokens.token()
        assert status(with_token(app, old)) == 200
        for _ in range(2):
            tokens.rotate()
            assert status(with_token(app, tokens.token())) == 200
        refused(with_token(app, old).get("/jobs"), 403)

    def test_are_not_fetched_for_ever_for_unknown_keys(
        self, app: Flask, tokens: TokenDouble, keys_grow_old: Callable[[float], None]
    ) -> None:
        """While the keys cannot be fetched, no key is called unknown: it may be a new one."""
        answers = []
        for number in range(20):
            forged = jwt.encode(tokens.claims(), tokens.key.private, "ES256", {"kid": f"unknown-{number}"})
            answers.append(with_token(app, forged).get("/users/me"))
        assert tokens.fetches <= 4
        assert [answer.status_code for answer in answers[:3]] == [403] * 3
        refused(answers[-1], 503)
        assert int(answers[-1].headers["Retry-After"]) > 0
        tokens.rotate()
        refused(with_token(app, tokens.token()).get("/users/me"), 503)
        keys_grow_old(10)
        assert status(with_token(app, tokens.token())) == 200

    def test_are_fetched_anew_while_the_old_ones_serve(
        self, app: Flask, machine: Client, tokens: TokenDouble, keys_grow_old: Callable[[float], None]
    ) -> None:
        assert status(machine) == 200
        keys_grow_old(FRESH_FOR + 1)
        tokens.hold()
        assert [status(machine) for _ in range(3)] == [200] * 3
        tokens.let_go()
        ring = app.extensions["kelpie"].authenticator.tokens.keys
        wait_for(lambda: bool(ring.age() < FRESH_FOR), "the keys to be fetched", pause=0.01)
        assert tokens.fetches == 2

    def test_that_are_withdrawn_serve_no_more(
        self, machine: Client, tokens: TokenDouble, keys_grow_old: Callable[[float], None]
    ) -> None:
        assert status(machine) == 200
        tokens.rotate()
        keys_grow_old(STALE_AFTER + 1)
        assert status(machine) == 403


AWAY: dict[str, Callable[[TokenDouble], None]] = {
    "closed": lambda tokens: tokens.stop(),
    "HTML": lambda tokens: setattr(tokens, "instead", page(200)),
    "an error": lambda tokens: setattr(tokens, "instead", page(503)),
    "an error with keys": lambda tokens: setattr(tokens, "instead", erroneous(tokens)),
    "a redirect": lambda tokens: setattr(tokens, "instead", page(302, Location=tokens.url + "/elsewhere")),
    "no keys": lambda tokens: setattr(tokens, "published", []),
    "rubbish for keys": lambda tokens: setattr(tokens, "published", [None, 5, {}, {"kty": "EC"}]),
    "no list": lambda tokens: setattr(tokens, "published", {"kid": "x"}),
}


def erroneous(tokens: TokenDouble) -> Answer:
    def answer() -> Any:
        response = json_of({"keys": [SigningKey().jwk]})
        response.status_code = 500
        return response

    return answer


class TestWhileTheKeysCannotBeFetched:
    @pytest.mark.parametrize("how", AWAY)
    def test_those_that_were_serve_for_days(
        self, machine: Client, tokens: TokenDouble, keys_grow_old: Callable[[float], None], how: str
    ) -> None:
        assert status(machine) == 200
        AWAY[how](tokens)
        keys_grow_old(STALE_FOR - DAY)
        assert status(machine) == 200
        keys_grow_old(2 * DAY)
        assert status(machine) == 503

    @pytest.mark.parametrize("how", AWAY)
    def test_those_that_are_stored_serve_a_new_process(
        self, machine: Client, tokens: TokenDouble, config: Config, how: str,
        keys_grow_old: Callable[[float], None],
    ) -> None:  # fmt: skip
        assert status(machine) == 200
        keys_grow_old(2 * DAY)
        AWAY[how](tokens)
        restarted = create_app(config)
        assert status(with_token(restarted, tokens.token())) == 200
        restarted.extensions["kelpie"].end()

    @pytest.mark.parametrize("how", AWAY)
    def test_nothing_stored_is_a_503_until_they_can(
        self, app: Flask, machine: Client, tokens: TokenDouble, keys_grow_old: Callable[[float], None], how: str
    ) -> None:
        AWAY[how](tokens)
        for _ in range(2):
            answer = machine.get("/jobs")
            refused(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
        if how == "closed":
            tokens.start()
        tokens.instead, tokens.published = None, [tokens.key.jwk]
        keys_grow_old(10)
        assert status(machine) == 200

    def test_a_token_of_an_unknown_key_is_a_503_for_it_may_be_a_new_one(
        self, app: Flask, machine: Client, tokens: TokenDouble
    ) -> None:
        assert status(machine) == 200
        tokens.instead = page(503)
        tokens.rotate()
        refused(with_token(app, tokens.token()).get("/jobs"), 503)
        assert status(machine) == 200

    def test_a_caller_that_needs_none_does_not_wait_for_them(
        self, app: Flask, tokens: TokenDouble, api: Client
    ) -> None:
        tokens.hold()
        flights = app.extensions["kelpie"].authenticator.tokens.keys.flights

        def others() -> int:
            wait_for(lambda: bool(flights.under_way), "the keys to be asked for", pause=0.01)
            answered = status(api)
            assert flights.under_way
            tokens.let_go()
            return answered

        assert at_once([lambda: status(with_token(app, tokens.token())), others]) == [200, 200]


class TestAStrangeSetOfKeys:
    def test_two_keys_of_one_name_are_both_tried(self, machine: Client, tokens: TokenDouble) -> None:
        tokens.published = [SigningKey().jwk | {"kid": tokens.key.kid}, tokens.key.jwk]
        assert status(machine) == 200

    def test_a_key_without_a_name_may_be_the_one(self, machine: Client, tokens: TokenDouble) -> None:
        tokens.published = [{name: value for name, value in tokens.key.jwk.items() if name != "kid"}]
        assert status(machine) == 200

    def test_no_crowd_of_others_hides_the_key_that_is_named(self, machine: Client, tokens: TokenDouble) -> None:
        """Nameless keys come after it, and copies count once."""
        nameless = [SigningKey().jwk | {"kid": None} for _ in range(SEVERAL)]
        namesake = SigningKey().jwk | {"kid": tokens.key.kid}
        tokens.published = [*nameless, *[namesake] * MOST_KEYS, tokens.key.jwk]
        assert status(machine) == 200

    def test_a_token_without_a_name_may_be_of_any_key(self, app: Flask, tokens: TokenDouble) -> None:
        tokens.published = [SigningKey().jwk, tokens.key.jwk]
        assert status(with_token(app, jwt.encode(tokens.claims(), tokens.key.private, "ES256"))) == 200

    def test_what_is_no_key_for_this_is_passed_over(self, machine: Client, tokens: TokenDouble) -> None:
        other = rsa.generate_private_key(65537, 2048).public_key()
        kid = {"kid": tokens.key.kid}
        tokens.published = [
            None,
            {"kty": "EC", "crv": "P-256", "x": "!", "y": 5, **kid},
            {"kty": "oct", "k": "c2VjcmV0", **kid},
            {"kty": ["EC"], "crv": {}, **kid},
            SigningKey().jwk | {"kid": 5},
            jwt.algorithms.RSAAlgorithm.to_jwk(other, as_dict=True) | kid,
            tokens.key.jwk,
        ]
        assert status(machine) == 200

    @pytest.mark.parametrize(
        "strange", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "ES384"}, {"crv": "P-384"}, {"kty": "oct"}]
    )
    def test_a_key_for_another_use_proves_nothing(
        self, machine: Client, tokens: TokenDouble, strange: dict[str, Any]
    ) -> None:
        tokens.published = [tokens.key.jwk | strange, SigningKey().jwk]
        assert status(machine) == 403

    def test_no_private_part_is_stored(self, machine: Client, tokens: TokenDouble, db: Database) -> None:
        tokens.published = [tokens.key.jwk | {"d": "the-secret-part"}]
        assert status(machine) == 200
        assert "the-secret-part" not in str(db.all("select keys::text from jwks"))


def test_other_algorithms_work_where_the_operator_wants_them(config: Config, tokens: TokenDouble) -> None:
    key = rsa.generate_private_key(65537, 2048)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    tokens.published = [public | {"kid": "rsa"}, tokens.key.jwk]
    app = create_app(replace(config, jwt_algorithms=("RS256", "PS256")))
    for algorithm, expected in (("RS256", 200), ("PS256", 200), ("RS384", 403)):
        assert status(with_token(app, jwt.encode(tokens.claims(), key, algorithm, {"kid": "rsa"}))) == expected
    refused(with_token(app, tokens.token()).get("/jobs"), 403)
    app.extensions["kelpie"].end()


def test_the_issuer_is_the_operators_choice(config: Config, tokens: TokenDouble) -> None:
    app = create_app(replace(config, jwt_issuer="https://elsewhere"))
    refused(with_token(app, tokens.token()).get("/jobs"), 403)
    assert status(with_token(app, tokens.token(iss="https://elsewhere"))) == 200
    app.extensions["kelpie"].end()


def test_a_machine_of_a_removed_user_goes_on_as_a_new_one(
    machine: Client, admin: Client, tokens: TokenDouble, tenant: Tenant
) -> None:
    assert status(machine) == 200
    assert admin.delete("/users").status_code == 204
    assert status(machine) == 200
    assert claimed(machine, tokens) == []


def test_requests_of_a_new_organization_that_come_at_the_same_moment_make_one_user(
    db: Database, config: Config
) -> None:
    """In a hundred rounds, for in each of them only a moment decides whether the insertions meet."""
    authenticator = Authenticator(db, config)
    for number in range(100):
        ask = partial(authenticator._owner, f"new-{number}", "default", proven=True)
        assert len({caller.user_id for caller in at_once([ask] * 12)}) == 1
    authenticator.end()
