"""Settings as a page: keys, secrets, the signing secret, each by role (docs/pages.md, Settings)."""

from __future__ import annotations

import re

from flask import Flask

from kelpie_api.auth import keys
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from tests.dashboard.browser import Browser, signed_in
from tests.helpers import Client, Tenant

PLACE = "/ui/settings"
VERBS = ("make-key", "remove-key", "set-secret", "remove-secret", "show-signing-secret", "rotate-signing-secret")
MARKUP = "<script>alert(1)</script>"
HOSTILE = (MARKUP, "a\0b", "\u202e", "\x1b[31m", "\ufffd", "x" * 2**20)


def shown(text: str) -> list[str]:
    """What is shown this once."""
    return re.findall(r'<pre class="output">([^<]*)</pre>', text)


def send(browser: Browser, verb: str, status: int = 200, **fields: str) -> str:
    """Fill in a form of the page and send it; the page that follows."""
    form = browser.form(PLACE, f"{PLACE}/{verb}")
    answer = browser.post(form.action, form.fields | fields, status)
    return browser.get(PLACE).text if status == 303 else answer.text


def test_a_key_is_made_shown_once_and_good_for_its_role(
    app: Flask, operator: Browser, db: Database, tenant: Tenant
) -> None:
    [key] = shown(send(operator, "make-key", name=" desk-of-anna ", role="viewer"))
    text = operator.get(PLACE).text
    assert key.startswith("kelpie_") and key not in text and "desk-of-anna" in text
    viewer = signed_in(app, Tenant(tenant.caller, key))
    assert "desk-of-anna" in viewer.page(PLACE).text
    assert "There is a key named" in send(operator, "make-key", 409, name="desk-of-anna", role="viewer")
    [made] = db.all("select id from api_keys where name = 'desk-of-anna'")
    [form] = [form for form in operator.page(PLACE).forms if form.fields.get("id") == str(made["id"])]
    operator.post(form.action, form.fields)
    assert "desk-of-anna" not in operator.get(PLACE).text
    viewer.get(PLACE, 303)


def test_the_key_of_this_session_has_no_button_and_is_not_removed(
    operator: Browser, db: Database, tenant: Tenant
) -> None:
    keys.create(db, tenant.caller, "other", Role.WORKER)
    [own] = db.all("select id from api_keys where name is null")
    ids = {form.fields["id"] for form in operator.page(PLACE).forms if form.action.endswith("remove-key")}
    assert len(ids) == 1 and str(own["id"]) not in ids
    assert "signed in with this key" in send(operator, "remove-key", 409, id=str(own["id"]))


def test_a_secret_is_set_named_and_removed_but_never_shown(api: Client, operator: Browser) -> None:
    send(operator, "set-secret", 303, name="WANDB_KEY", value="first\r\nsecond")
    text = operator.get(PLACE).text
    assert "WANDB_KEY" in text and "first" not in text
    job = api.submit(secrets=["WANDB_KEY"])
    claimed = api.claim()
    assert claimed and claimed["environment"]["WANDB_KEY"] == "first\nsecond"
    refused = send(operator, "remove-secret", 409)
    assert f"Open jobs name the secret WANDB_KEY, such as {job['id']}" in refused
    assert api.delete(f"/jobs/{job['id']}").status_code < 300
    send(operator, "remove-secret", 303)
    assert "WANDB_KEY" not in operator.get(PLACE).text


def test_the_signing_secret_is_shown_when_it_is_asked_for_and_changed(api: Client, operator: Browser) -> None:
    [first] = shown(send(operator, "show-signing-secret"))
    assert first == api.get("/users/me/signing-secret").get_json()["secret"]
    assert "whsec_" not in operator.get(PLACE).text
    assert shown(send(operator, "show-signing-secret")) == [first]
    [second, before] = shown(send(operator, "rotate-signing-secret"))
    assert before == first != second


def test_no_viewer_and_no_other_tenant_changes_anything(
    viewer: Browser, rival: Browser, operator: Browser, db: Database, tenant: Tenant
) -> None:
    made = keys.create(db, tenant.caller, "of-acme", Role.WORKER)
    send(operator, "set-secret", 303, name="OF_ACME", value="v")
    page = viewer.page(PLACE)
    assert [form.action for form in page.forms] == ["/ui/sign-out"]
    assert "of-acme" in page.text and "OF_ACME" in page.text
    rivals = rival.page(PLACE).text
    assert "of-acme" not in rivals and "OF_ACME" not in rivals
    fields = {"id": str(made["id"]), "name": "OF_ACME", "value": "x", "role": "operator"}
    own = viewer.form("/ui", "/ui/sign-out").fields
    for verb in VERBS:
        viewer.post(f"{PLACE}/{verb}", own | fields, 403)
        operator.post(f"{PLACE}/{verb}", fields, 403)
    own = rival.form("/ui", "/ui/sign-out").fields
    for verb in ("remove-key", "remove-secret"):
        rival.post(f"{PLACE}/{verb}", own | fields, 404)
    rival.post(f"{PLACE}/explode", own, 404)
    assert len(db.all("select from api_keys where name is not null")) == len(db.all("select from secrets")) == 1
    assert db.all("select from signing_secrets") == []


def test_what_no_name_and_no_value_can_be_is_refused_in_the_page(operator: Browser, db: Database) -> None:
    own = operator.form("/ui", "/ui/sign-out").fields
    for odd in ("", *HOSTILE):
        for verb, fields in (
            ("make-key", {"name": odd, "role": "viewer"}),
            ("make-key", {"name": "fine", "role": odd}),
            ("set-secret", {"name": odd, "value": "v"}),
            ("remove-secret", {"name": odd}),
            ("remove-key", {"id": odd}),
        ):
            answer = operator.http.post(f"{PLACE}/{verb}", data=own | fields)
            assert answer.status_code in (400, 404, 413), (verb, odd[:20], answer.status_code)
            assert "<script>" not in answer.text and "\u202e" not in answer.text and len(answer.text) < 20_000
    for odd in ("", "x" * 65_537):
        assert 'role="alert"' in send(operator, "set-secret", 400, name="FINE", value=odd)
    assert db.all("select from secrets") == []


def test_a_hostile_user_is_text(operator: Browser, db: Database, tenant: Tenant) -> None:
    db.execute("update api_keys set created_by = %(odd)s", odd=f"user:{MARKUP}\u202e")
    send(operator, "set-secret", 303, name="T", value="v")
    db.execute("update secrets set set_by = %(odd)s", odd=f"user:{MARKUP}\u202e")
    text = operator.get(PLACE).text
    assert "<script>" not in text and "\u202e" not in text and text.count("&lt;script&gt;") == 2
