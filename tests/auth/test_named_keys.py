"""Keys with names, which operators make for their own tenant (docs/design/protocol.md, Callers)."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from kelpie_api.auth import keys
from kelpie_api.db import Database
from tests.auth.test_keys_and_users import everything_stored
from tests.helpers import Client, Job, make_tenant, refused


def make(api: Client, name: str = "ann", role: str = "operator") -> Job:
    made = api.post("/keys", {"name": name, "role": role})
    assert made.status_code == 201, made.text
    assert made.headers["Cache-Control"] == "no-store"
    return dict(made.json or {})


def listed(api: Client) -> dict[str, Job]:
    """The keys of the client's tenant that have names."""
    found = api.get("/keys").json or {}
    assert found["_count"] == len(found["keys"])
    return {key["name"]: key for key in found["keys"] if key["name"]}


def test_an_operator_makes_a_key_and_it_opens_the_same_jobs(app: Flask, api: Client) -> None:
    job = api.submit()
    key = make(api)
    assert Client(app.test_client(), key["token"]).get(f"/jobs/{job['id']}").status_code == 200


def test_it_is_listed_by_its_name_and_how_it_begins_and_stored_nowhere(api: Client, db: Database) -> None:
    token = make(api, "ann", "viewer")["token"]
    shown = listed(api)["ann"]
    assert shown["role"] == "viewer" and token.startswith(shown["prefix"]) and len(shown["prefix"]) == 13
    assert (shown["created_by"], shown["username"], shown["project_name"]) == ("user:acme", "acme", "default")
    assert token not in api.get("/keys").text and token not in everything_stored(db)


def test_events_name_the_user_and_the_key(app: Flask, api: Client, db: Database) -> None:
    ann = Client(app.test_client(), make(api)["token"])
    job = ann.submit()
    assert ann.delete(f"/jobs/{job['id']}").status_code == 202
    events = (api.get(f"/jobs/{job['id']}/events").json or {})["events"]
    assert [event["actor"] for event in events] == ["user:acme key:ann"] * 2
    make(ann, "bob")
    assert listed(api)["bob"]["created_by"] == "user:acme key:ann"


@pytest.mark.parametrize("role", ["viewer", "worker"])
def test_only_operators_make_and_remove_keys(app: Flask, api: Client, role: str) -> None:
    made = make(api, "one", role)
    other = Client(app.test_client(), made["token"])
    refused(other.post("/keys", {"name": "two", "role": "worker"}), 403)
    refused(other.delete(f"/keys/{made['id']}?self=true"), 403)


BAD = [
    {"name": "a b", "role": "worker"},
    {"name": "", "role": "worker"},
    {"name": "x" * 65, "role": "worker"},
    {"name": "a\n", "role": "worker"},
    {"name": 7, "role": "worker"},
    {"name": "a", "role": "king"},
    {"name": "a"},
    {"role": "worker"},
    [],
]


@pytest.mark.parametrize("body", BAD)
def test_a_key_that_is_asked_for_wrongly_is_a_400(api: Client, body: Any) -> None:
    refused(api.post("/keys", body), 400)


def test_a_name_is_given_once_in_a_project_and_is_free_again_afterwards(api: Client, stranger: Client) -> None:
    key = make(api)
    make(stranger)
    assert "ann" in refused(api.post("/keys", {"name": "ann", "role": "viewer"}), 409)["message"]
    assert api.delete(f"/keys/{key['id']}").status_code == 204
    make(api)


def test_a_tenant_has_so_many_keys_and_no_more(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_KEYS", 2)  # one is the client's own
    make(api)
    refused(api.post("/keys", {"name": "bob", "role": "viewer"}), 409)


def test_a_removed_key_is_refused_at_once_by_the_process_that_removed_it(app: Flask, api: Client) -> None:
    key = make(api)
    ann = Client(app.test_client(), key["token"])
    assert ann.get("/jobs").status_code == 200
    assert api.delete(f"/keys/{key['id']}").status_code == 204
    refused(ann.get("/jobs"), 403)
    assert listed(api) == {}
    refused(api.delete(f"/keys/{key['id']}"), 404)


def test_the_key_in_use_is_removed_only_where_that_is_meant(app: Flask, api: Client) -> None:
    key = make(api)
    ann = Client(app.test_client(), key["token"])
    assert "self=true" in refused(ann.delete(f"/keys/{key['id']}"), 409)["message"]
    assert ann.delete(f"/keys/{key['id']}?self=true").status_code == 204
    refused(ann.get("/jobs"), 403)


def test_keys_of_other_tenants_are_neither_listed_nor_removed(
    app: Flask, api: Client, stranger: Client, admin: Client, db: Database
) -> None:
    key = make(api)
    other_project = Client(app.test_client(), make_tenant(db, "acme", "other").key)
    for other in (stranger, other_project):
        assert listed(other) == {}
        refused(other.delete(f"/keys/{key['id']}"), 404)
    assert listed(admin)["ann"]["username"] == "acme"


def test_a_path_without_its_id_is_a_400(api: Client) -> None:
    assert "key_id" in refused(api.delete("/keys/"), 400)["errors"]
    refused(api.delete("/keys/x"), 404)


def test_pages_lead_through_all_keys(api: Client) -> None:
    for name in "abc":
        make(api, name)
    names, path = [], "/keys?page_size=1"
    while path:
        page = api.get(path)
        names += [key["name"] for key in (page.json or {})["keys"]]
        path = page.headers.get("Link", "").partition("<")[2].partition(">")[0]
    assert names == [None, "a", "b", "c"]


class TestItsLastUse:
    def last_used(self, api: Client) -> Any:
        return listed(api)["ann"]["last_used"]

    def test_is_written_outside_of_the_request(self, app: Flask, api: Client) -> None:
        key = make(api)
        assert Client(app.test_client(), key["token"]).get("/jobs").status_code == 200
        assert self.last_used(api) is None
        app.extensions["kelpie"].authenticator.key_uses.record_uses_of_keys()
        assert self.last_used(api) is not None

    @pytest.mark.parametrize(("minutes", "is_written"), [(4, False), (6, True)])
    def test_is_exact_to_ten_minutes_and_not_written_more_often_than_that_needs(
        self, app: Flask, api: Client, db: Database, minutes: int, is_written: bool
    ) -> None:
        ann = Client(app.test_client(), make(api)["token"])
        db.execute("update api_keys set last_used = now() - make_interval(mins => %(n)s)", n=minutes)
        before = self.last_used(api)
        assert ann.get("/jobs").status_code == 200
        app.extensions["kelpie"].authenticator.key_uses.record_uses_of_keys()
        assert (self.last_used(api) != before) is is_written

    def test_waits_for_the_next_time_where_the_database_is_away(
        self, app: Flask, api: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = Client(app.test_client(), make(api)["token"])
        assert ann.get("/jobs").status_code == 200
        uses = app.extensions["kelpie"].authenticator.key_uses
        with monkeypatch.context() as away:
            away.setattr(uses, "db", None)
            with pytest.raises(AttributeError):
                uses.record_uses_of_keys()
        uses.record_uses_of_keys()
        assert self.last_used(api) is not None


class TestUsers:
    def test_are_listed_for_the_administrator_page_by_page(
        self, admin: Client, api: Client, stranger: Client
    ) -> None:
        first = admin.get("/users?page_size=2")
        assert [user["username"] for user in (first.json or {})["users"]] == ["admin", "acme"]
        following = first.headers["Link"].partition("<")[2].partition(">")[0]
        second = admin.get(following)
        assert [user["username"] for user in (second.json or {})["users"]] == [
            "rival"
        ] and "Link" not in second.headers

    def test_are_listed_for_no_other(self, api: Client) -> None:
        refused(api.get("/users"), 403)


def test_metrics_name_no_user_no_key_no_project_and_nothing_of_a_job(
    app: Flask, api: Client, db: Database
) -> None:
    ann = Client(app.test_client(), make(api, "name-of-a-key")["token"])
    ann.patch("/container-groups/g1", {"price_per_hour": 1234.5})
    ann.submit(command="x", name="name-of-a-job", labels={"key-of-a-label": "value-of-a-label"})
    ann.claim()
    exposition = app.test_client().get("/metrics").text
    assert "kelpie" in exposition
    said = ("name-of-a-job", "key-of-a-label", "value-of-a-label", "1234.5")
    for name in ("acme", "name-of-a-key", 'project="default"', str(ann.get("/users/me").json), *said):
        assert name not in exposition
