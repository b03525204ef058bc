"""Settings: the keys and secrets of the caller's project, and the secret that signs their webhooks.

What is confidential stands in the answer to the form that asked for it, and in no page that can be opened by its
address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.auth import keys
from kelpie_api.auth.caller import Role
from kelpie_api.dashboard.pages import blueprint, lead_to, page
from kelpie_api.errors import Conflict, KelpieError, NotFound
from kelpie_api.schemas.keys import NewKey
from kelpie_api.schemas.secrets import NamedSecret, NewSecret
from kelpie_api.sealed import secrets
from kelpie_api.web import sessions
from kelpie_api.web.body import load, whole_body
from kelpie_api.web.context import caller, coordinator, db, identifier, this_request
from kelpie_api.webhooks import signing

MOST_KEYS = 200
PLACE = "/ui/settings"
NEW_KEY, NEW_SECRET, NAMED_SECRET = NewKey(), NewSecret(), NamedSecret()


@dataclass(frozen=True)
class Shown:
    """Something confidential, and what it is."""

    what: str
    value: str


@blueprint.get(PLACE)
def get_settings() -> Response:
    """Keys with names and roles, the names of secrets."""
    return settings()


def settings(shown: list[Shown] | None = None, refusal: KelpieError | None = None) -> Response:
    found, following = keys.list_page(db(), caller(), None, MOST_KEYS)
    return page(
        "settings.html",
        refusal.status if refusal else 200,
        keys=found,
        more_keys=following is not None,
        secrets=secrets.list_all(db(), caller()),
        roles=[*Role],
        shown=shown or [],
        refusal=refusal and refusal.message,
    )


@blueprint.post(f"{PLACE}/<verb>")
def change_settings(verb: str) -> AnyResponse:
    """A form of the page; what it refuses stands above the forms."""
    whole_body()
    sessions.require_own_form(this_request())
    if verb not in VERBS:
        raise NotFound("There is no such button.")
    try:
        done = VERBS[verb]()
    except KelpieError as refusal:
        return settings(refusal=refusal)
    return lead_to(PLACE, done) if isinstance(done, str) else settings(done)


def field(name: str) -> str:
    return request.form.get(name, "")


def make_key() -> list[Shown]:
    new = load(NEW_KEY, {"name": field("name").strip(), "role": field("role")})
    made = keys.create(db(), caller(), new["name"], new["role"])
    return [Shown(f"The key {made['name']} for a {made['role']}", made["token"])]


def remove_key() -> str:
    the_id = identifier(field("id"), "key")
    if the_id == caller().key_id:
        raise Conflict("You are signed in with this key; sign in with another one to remove it.")
    keys.delete(db(), caller(), the_id, is_meant=False)
    coordinator().authenticator.forget()
    return "The key is removed, and with it the sessions that began with it."


def set_secret() -> str:
    name = load(NAMED_SECRET, {"name": field("name").strip()})["name"]
    # A browser sends each end of a line as two characters.
    new = load(NEW_SECRET, {"value": field("value").replace("\r\n", "\n")})
    secrets.put(db(), coordinator().authenticator.seal, caller(), name, new["value"])
    return f"The secret {name} is set; jobs that name it get this value when they are claimed."


def remove_secret() -> str:
    name = load(NAMED_SECRET, {"name": field("name")})["name"]
    secrets.delete(db(), caller(), name)
    return f"The secret {name} is removed."


def show_signing_secret() -> list[Shown]:
    return signing_secrets(signing.signing_secret(db(), coordinator().authenticator.seal, caller().user_id))


def rotate_signing_secret() -> list[Shown]:
    return signing_secrets(signing.rotate_signing_secret(db(), coordinator().authenticator.seal, caller().user_id))


def signing_secrets(found: dict[str, Any]) -> list[Shown]:
    current = Shown("The secret that signs your webhooks", found["secret"])
    previous = found["previous"]
    if previous is None:
        return [current]
    until = previous["valid_until"].strftime("%Y-%m-%d %H:%M")
    return [current, Shown(f"The one before it, which signs beside it until {until} UTC", previous["secret"])]


VERBS: dict[str, Callable[[], str | list[Shown]]] = {
    "make-key": make_key,
    "remove-key": remove_key,
    "set-secret": set_secret,
    "remove-secret": remove_secret,
    "show-signing-secret": show_signing_secret,
    "rotate-signing-secret": rotate_signing_secret,
}
