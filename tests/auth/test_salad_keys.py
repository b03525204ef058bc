"""Salad's API key as a credential: proven by Salad, believed for a while (docs/design/protocol.md, Callers)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from kelpie_api.app import create_app
from kelpie_api.auth.salad_keys import SaladKeys
from kelpie_api.config import Config
from kelpie_api.db import SQL, Database
from local_stack.processes import wait_for
from tests.doubles.double import Answer, page
from tests.doubles.salad import SaladDouble, trouble
from tests.helpers import Client, Tenant, at_once, refused, with_salad_key

KEY = "salad-key"
MINUTES, HOURS = 60.0, 3600.0


@pytest.fixture
def settings(salad: SaladDouble) -> dict[str, Any]:
    salad.allow(KEY, "acme", "default")
    return {"salad_api_url": salad.api_url}


@pytest.fixture
def client(app: Flask) -> Client:
    return with_salad_key(app, KEY)


@pytest.fixture
def later(app: Flask, db: Database) -> Callable[[float], None]:
    """Let time pass: everything that is known of Salad's answers is so many seconds older."""

    def pass_time(seconds: float) -> None:
        salad_keys: SaladKeys = app.extensions["kelpie"].authenticator.salad_keys
        for question, standing in list(salad_keys.remembered.values.items()):
            salad_keys.remembered.values[question] = replace(
                standing,
                proven=None if standing.proven is None else standing.proven - seconds,
                ask_again=standing.ask_again - seconds,
            )
        db.execute("update salad_proofs set proven = proven - %(s)s * interval '1 second'", s=seconds)

    return pass_time


def status(client: Client) -> int:
    return client.get("/users/me").status_code


class TestAProvenKey:
    def test_may_do_what_a_user_does(self, client: Client) -> None:
        job = client.submit()
        assert [found["id"] for found in (client.get("/jobs").json or {})["jobs"]] == [job["id"]]
        assert (client.claim() or {})["id"] == job["id"]
        assert client.report(job, "completed", attempt=1).status_code == 200

    def test_shares_its_jobs_with_a_kelpie_key_of_that_user_and_project(
        self, client: Client, api: Client, tenant: Tenant
    ) -> None:
        assert tenant.caller.username == "acme"
        assert api.get(f"/jobs/{client.submit()['id']}").status_code == 200

    def test_leaves_the_key_of_a_webhook_empty(self, client: Client, db: Database) -> None:
        client.submit(webhook="http://receiver/")
        client.claim()
        assert [row["sealed_key"] for row in db.all("select sealed_key from webhooks")] == [None]


class TestHeaders:
    @pytest.mark.parametrize("missing", ["organization", "project"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_without_one_the_answer_is_400_and_names_it(
        self, app: Flask, salad: SaladDouble, missing: str, value: str | None
    ) -> None:
        body = refused(with_salad_key(app, KEY, **{missing: value}).get("/jobs"), 400)
        assert body["errors"].keys() == {f"Salad-{missing.capitalize()}"}
        assert not salad.asked

    @pytest.mark.parametrize("part", ["organization", "project"])
    @pytest.mark.parametrize(
        "name", ["..", "a/b", "a%2fb", "Acme", "a", "-acme", "acme-", "a" * 64, "a b", "ÿþ", "a?b"]
    )
    def test_a_name_that_cannot_be_one_is_a_400_and_salad_is_not_asked(
        self, app: Flask, salad: SaladDouble, part: str, name: str
    ) -> None:
        refused(with_salad_key(app, KEY, **{part: name}).get("/jobs"), 400)
        assert not salad.asked

    def test_the_longest_and_the_shortest_name_will_do(self, app: Flask, salad: SaladDouble) -> None:
        salad.allow(KEY, "a" * 63, "ab")
        assert status(with_salad_key(app, KEY, "a" * 63, "ab")) == 200


class TestARefusedKey:
    @pytest.mark.parametrize("key", ["wrong", "salad-key ", "ÿþ", "x" * 5000, "kelpie_" + "A" * 43])
    def test_is_a_403(self, app: Flask, key: str) -> None:
        refused(with_salad_key(app, key).get("/jobs"), 403)

    @pytest.mark.parametrize("key", ["\xa0key", "key\x85", "k\xffey", "x" * 5000])
    def test_is_one_that_salad_could_not_have_made_and_is_not_asked_about(
        self, app: Flask, salad: SaladDouble, key: str
    ) -> None:
        refused(with_salad_key(app, key).get("/jobs"), 403)
        assert not salad.asked

    def test_makes_no_user(self, app: Flask, db: Database) -> None:
        refused(with_salad_key(app, "wrong", "newcomer").get("/jobs"), 403)
        assert db.all("select from users where username = 'newcomer'") == []

    @pytest.mark.parametrize("said", [401, 403, 404])
    def test_is_what_salad_refuses_in_any_way(self, salad: SaladDouble, client: Client, said: int) -> None:
        salad.instead = trouble(said, "No")
        refused(client.get("/jobs"), 403)

    def test_is_asked_about_again_after_some_seconds(
        self, app: Flask, salad: SaladDouble, later: Callable[[float], None]
    ) -> None:
        client = with_salad_key(app, "new-key")
        for _ in range(3):
            assert status(client) == 403
        assert len(salad.asked) == 1
        salad.allow("new-key", "acme", "default")
        assert status(client) == 403
        later(15)
        assert status(client) == 200

    def test_is_no_kelpie_key_and_a_kelpie_key_is_no_salad_key(
        self, app: Flask, client: Client, api: Client, tenant: Tenant
    ) -> None:
        """Also when each was believed a moment ago under its own name."""
        assert status(client) == status(api) == 200
        refused(Client(app.test_client(), KEY).get("/jobs"), 403)
        refused(with_salad_key(app, tenant.key).get("/jobs"), 403)

    def test_cannot_be_made_of_the_parts_of_a_good_one(self, app: Flask, salad: SaladDouble) -> None:
        """What is remembered keeps key, organization and project apart."""
        salad.allow("key", "acme", "default")
        assert status(with_salad_key(app, "key", "acme", "default")) == 200
        assert status(with_salad_key(app, "keyac", "me", "default")) == 403
        assert status(with_salad_key(app, "key", "acmede", "fault")) == 403


class TestHowOftenSaladIsAsked:
    def test_once_in_five_minutes(
        self, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        assert [status(client) for _ in range(3)] == [200, 200, 200]
        later(4 * MINUTES)
        assert status(client) == 200
        assert len(salad.asked) == 1
        later(2 * MINUTES)
        assert status(client) == 200
        assert len(salad.asked) == 2

    def test_by_one_of_many_processes(self, salad: SaladDouble, client: Client, config: Config) -> None:
        assert status(client) == 200
        another = create_app(config)
        assert status(with_salad_key(another, KEY)) == 200
        assert len(salad.asked) == 1
        another.extensions["kelpie"].end()

    def test_once_by_many_requests_at_the_same_time(self, app: Flask, salad: SaladDouble) -> None:
        salad.hold()
        flights = app.extensions["kelpie"].authenticator.salad_keys.unproven_keys

        def call() -> int:
            return status(with_salad_key(app, KEY))

        def release() -> int:
            wait_for(lambda: len(salad.asked) == 1 and bool(flights.under_way), "Salad to be asked", pause=0.01)
            salad.let_go()
            return 200

        assert at_once([*[call] * 12, release]) == [200] * 13
        assert len(salad.asked) == 1

    def test_as_often_as_the_operator_wants(self, salad: SaladDouble, config: Config) -> None:
        app = create_app(replace(config, proven_for=timedelta(0), refused_for=timedelta(0)))
        good, bad = with_salad_key(app, KEY), with_salad_key(app, "wrong")
        assert [status(good), status(good), status(bad), status(bad)] == [200, 200, 403, 403]
        assert len(salad.asked) == 4
        app.extensions["kelpie"].end()

    def test_a_revoked_key_is_refused_by_the_first_request_after_its_time(
        self, salad: SaladDouble, client: Client, db: Database, later: Callable[[float], None]
    ) -> None:
        assert status(client) == 200
        salad.revoke(KEY)
        later(6 * MINUTES)
        assert status(client) == 403
        assert db.all("select from salad_proofs") == []


NO_ANSWERS: dict[str, Answer] = {
    "429": trouble(429, "Too Many Requests", Retry_After="30"),
    "500": trouble(500, "Internal Server Error"),
    "502 in HTML": page(502),
    "200 in HTML": page(200),
    "a redirect": page(302, Location="http://127.0.0.1:9/"),
    "400": trouble(400, "Bad Request"),
}


class TestWhileSaladGivesNoAnswer:
    @pytest.mark.parametrize("answer", NO_ANSWERS)
    def test_an_unknown_key_is_a_503_and_a_known_one_is_good_for_a_day(
        self, app: Flask, salad: SaladDouble, client: Client, later: Callable[[float], None], answer: str
    ) -> None:
        assert status(client) == 200
        salad.instead = NO_ANSWERS[answer]
        unknown = with_salad_key(app, "new-key").get("/jobs")
        refused(unknown, 503)
        assert int(unknown.headers["Retry-After"]) > 0
        later(23 * HOURS)
        assert status(client) == 200
        later(2 * HOURS)
        assert status(client) == 503

    def test_a_refused_connection_is_no_answer_either(
        self, app: Flask, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        assert status(client) == 200
        salad.stop()
        refused(with_salad_key(app, "new-key").get("/jobs"), 503)
        later(23 * HOURS)
        assert status(client) == 200
        salad.start()
        later(MINUTES)
        assert status(with_salad_key(app, "new-key")) == 403
        assert status(client) == 200

    def test_a_restart_forgets_no_key(
        self, salad: SaladDouble, client: Client, config: Config, later: Callable[[float], None]
    ) -> None:
        assert status(client) == 200
        later(23 * HOURS)
        salad.stop()
        restarted = create_app(config)
        assert status(with_salad_key(restarted, KEY)) == 200
        restarted.extensions["kelpie"].end()

    def test_salad_is_left_alone_for_some_seconds(
        self, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        assert status(client) == 200
        later(6 * MINUTES)
        salad.instead = trouble(503, "Unavailable")
        assert [status(client) for _ in range(5)] == [200] * 5
        assert len(salad.asked) == 2

    def test_a_refusal_is_not_forgotten_when_salad_falls_silent(
        self, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        """An older positive answer must not be used again."""
        assert status(client) == 200
        later(6 * MINUTES)
        salad.revoke(KEY)
        assert status(client) == 403
        salad.instead = trouble(500, "Internal Server Error")
        later(MINUTES)
        assert status(client) == 503

    def test_when_it_is_back_the_next_answer_counts(
        self, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        salad.instead = trouble(500, "Internal Server Error")
        assert status(client) == 503
        salad.instead = None
        later(MINUTES)
        assert status(client) == 200

    def test_the_credential_goes_nowhere_else(self, salad: SaladDouble, app: Flask) -> None:
        other = SaladDouble()
        salad.instead = page(307, Location=other.api_url + "/organizations/acme/projects/default/containers")
        refused(with_salad_key(app, "new-key").get("/jobs"), 503)
        assert not other.asked
        other.end()


class TestWhileSaladIsSlow:
    def test_a_known_key_is_answered_and_the_answer_counts_when_it_comes(
        self, app: Flask, salad: SaladDouble, client: Client, later: Callable[[float], None]
    ) -> None:
        assert status(client) == 200
        later(6 * MINUTES)
        salad.revoke(KEY)
        salad.hold()
        assert [status(client) for _ in range(3)] == [200] * 3
        assert len(salad.asked) == 2
        salad.let_go()
        wait_for(lambda: status(client) == 403, "the refusal to count", pause=0.05)
        assert len(salad.asked) == 2

    def test_who_asks_while_a_refusal_is_written_down_does_not_ask_salad_again(
        self,
        app: Flask,
        salad: SaladDouble,
        client: Client,
        later: Callable[[float], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The proof is gone from the database then: the key looks like one that Salad was never asked about."""
        db = app.extensions["kelpie"].authenticator.salad_keys.db
        execute, answered = db.execute, []

        def slowly(statement: str, **values: Any) -> Any:
            done = execute(statement, **values)
            if statement == SQL.drop_proof:
                monkeypatch.undo()
                answered.append(status(client))
            return done

        assert status(client) == 200
        later(6 * MINUTES)
        salad.revoke(KEY)
        monkeypatch.setattr(db, "execute", slowly)
        assert status(client) == 403
        assert answered == [403]
        assert len(salad.asked) == 2

    def test_other_callers_do_not_wait(self, app: Flask, salad: SaladDouble, api: Client) -> None:
        salad.hold()
        flights = app.extensions["kelpie"].authenticator.salad_keys.unproven_keys

        def others() -> int:
            wait_for(lambda: bool(flights.under_way), "Salad to be asked", pause=0.01)
            answered = status(api)
            assert flights.under_way  # still: no request waited for Salad
            salad.let_go()
            return answered

        assert at_once([lambda: status(with_salad_key(app, KEY)), others]) == [200, 200]


def test_old_proofs_are_removed(
    app: Flask, salad: SaladDouble, client: Client, db: Database, later: Callable[[float], None]
) -> None:
    salad.allow("second", "acme", "default")
    assert status(client) == 200
    later(25 * HOURS)
    assert status(with_salad_key(app, "second")) == 200
    assert len(db.all("select from salad_proofs")) == 1


class TestTheOrganizationsUser:
    def test_is_made_once_however_many_ask_at_once(self, app: Flask, salad: SaladDouble, db: Database) -> None:
        projects = [f"project-{number}" for number in range(4)] * 3
        for project in projects:
            salad.allow(KEY, "newcomer", project)

        def call(project: str) -> Callable[[], int]:
            return lambda: status(with_salad_key(app, KEY, "newcomer", project))

        assert at_once([call(project) for project in projects]) == [200] * 12
        assert len(db.all("select from users where username = 'newcomer'")) == 1
        assert len(db.all("select from tenants where project like 'project-%%'")) == 4

    def test_is_never_the_administrator(self, app: Flask, salad: SaladDouble, db: Database) -> None:
        salad.allow(KEY, "admin", "default")
        client = with_salad_key(app, KEY, "admin")
        assert "administrator" in refused(client.get("/jobs"), 403)["message"]
        assert (
            db.all("select from tenants t join users u on u.id = t.user_id where is_admin and project <> ''") == []
        )

    def test_is_no_user_that_the_administrator_made_for_another_purpose(
        self, app: Flask, admin: Client, client: Client
    ) -> None:
        """Another customer who creates an organization of that name at Salad would get the user's jobs."""
        user = admin.post("/users", {"username": "acme"}).json or {}
        admin.post(f"/users/{user['id']}/token", {"org_name": "elsewhere", "project_name": "default"})
        for _ in range(2):
            assert "org_name acme" in refused(client.get("/jobs"), 403)["message"]

    def test_is_one_whom_the_administrator_made_if_a_key_says_so(
        self, app: Flask, salad: SaladDouble, admin: Client, client: Client
    ) -> None:
        user = admin.post("/users", {"username": "acme"}).json or {}
        refused(client.get("/jobs"), 403)
        answer = admin.post(f"/users/{user['id']}/token", {"org_name": "acme", "project_name": "another"})
        assert client.get("/users/me").json == user
        job = client.submit()
        salad.allow(KEY, "acme", "another")
        refused(Client(app.test_client(), (answer.json or {})["token"]).get(f"/jobs/{job['id']}"), 404)

    def test_is_made_anew_after_the_administrator_removed_it(
        self, app: Flask, client: Client, admin: Client, db: Database
    ) -> None:
        first = (client.get("/users/me").json or {})["id"]
        assert admin.delete("/users").status_code == 204
        assert (client.get("/users/me").json or {})["id"] != first

    def test_is_made_anew_by_another_process_with_the_second_request_at_the_latest(
        self, client: Client, config: Config, admin: Client
    ) -> None:
        another = create_app(config)
        theirs = with_salad_key(another, KEY)
        theirs.submit()
        assert admin.delete("/users").status_code == 204
        refused(theirs.post("/jobs", {"command": "x", "container_group_id": None}), 403)
        assert theirs.submit()
        another.extensions["kelpie"].end()


def test_a_job_of_another_organization_is_unknown(app: Flask, salad: SaladDouble, client: Client) -> None:
    salad.allow("theirs", "rival", "default")
    job = client.submit()
    theirs = with_salad_key(app, "theirs", "rival")
    refused(theirs.get(f"/jobs/{job['id']}"), 404)
    refused(theirs.get(f"/jobs/{uuid.uuid4()}"), 404)
