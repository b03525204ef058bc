"""Container groups: what waits for them, their pause and price, and the rules by which they follow them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.dashboard.decisions import course
from kelpie_api.dashboard.live import live
from kelpie_api.dashboard.pages import blueprint, lead_to, page
from kelpie_api.db import SQL, Row
from kelpie_api.errors import Conflict, InvalidRequest, KelpieError, NotFound, RuleNotFound, Unavailable
from kelpie_api.limits import LONGEST_NAME
from kelpie_api.queue import groups
from kelpie_api.scaling import rules
from kelpie_api.schemas.scaling import NewRule, RuleChanges
from kelpie_api.schemas.steering import GroupChanges
from kelpie_api.text import UNSTORABLE, parse_uuid
from kelpie_api.web import sessions
from kelpie_api.web.body import load, whole_body
from kelpie_api.web.context import caller, coordinator, db, this_request

MOST = 500
REFRESHED = 10  # seconds between two looks at the list
MOST_DECISIONS, MOST_LISTED = 400, 50  # in the picture, and in the table
GROUP_CHANGES, NEW_RULE, RULE_CHANGES = GroupChanges(), NewRule(), RuleChanges()
LIMITS = ("min_replicas", "max_replicas", "idle_threshold_seconds")


@blueprint.get("/ui/groups")
@live(REFRESHED)
def list_groups() -> Response:
    """The container groups of the caller's project."""
    found = db().all(SQL.list_groups, scope=caller().scope["scope"], most=MOST + 1)
    by_group = {str(rule["container_group_id"]): rule for rule in rules.list_rules(db(), caller())}
    return page("groups.html", refreshed=REFRESHED, groups=found[:MOST], more=len(found) > MOST, rules=by_group)


@blueprint.get("/ui/groups/one")
def get_group() -> Response:
    """One container group: its numbers, what is set of it, and what the autoscaler decided."""
    return group_page(as_name(request.args.get("container_group_id", "")))


def group_page(group: str, refusal: KelpieError | None = None) -> Response:
    the_id = as_id(group)
    decided: list[Row] = []
    if the_id:
        values = {"container_group_id": the_id, "before": None, "skipped": 0, "most": MOST_DECISIONS}
        decided = db().all(SQL.list_decisions, **caller().scope, **values)
    return page(
        "group.html",
        refusal.status if refusal else 200,
        group=group,
        settings=db().one_or_none(SQL.get_group, tenant_id=caller().tenant_id, container_group=group),
        numbers=db().one_or_none(
            SQL.count_one_group, scope=caller().scope["scope"], spellings=rules.spellings(group)
        ),
        can_have_rule=the_id is not None,
        rule=rule_of(the_id),
        course=course(decided[::-1]),
        decisions=decided[:MOST_LISTED],
        refusal=refusal and refusal.message,
    )


def rule_of(the_id: UUID | None) -> Row | None:
    try:
        return rules.get_rule(db(), caller(), the_id) if the_id else None
    except RuleNotFound:
        return None


@blueprint.post("/ui/groups/<verb>")
def change_group(verb: str) -> AnyResponse:
    """A button of a group; what it refuses stands on the page of the group."""
    whole_body()
    sessions.require_own_form(this_request())
    if verb not in VERBS:
        raise NotFound("There is no such button.")
    group = as_name(request.form.get("group", ""))
    try:
        told = VERBS[verb](group)
    except (InvalidRequest, Conflict, Unavailable) as refusal:
        return group_page(group, refusal)
    place = (
        "/ui/groups"
        if verb in ("pause", "resume")
        else f"/ui/groups/one?{urlencode({'container_group_id': group})}"
    )
    return lead_to(place, told)


def pause(group: str) -> str:
    """Hand the machines of a group no job any more."""
    groups.change(db(), caller(), group, {"paused": True})
    return f"The container group {group} is paused: its machines are handed no job."


def resume(group: str) -> str:
    groups.change(db(), caller(), group, {"paused": False})
    return f"The container group {group} goes on."


def set_price(group: str) -> str:
    """Set what an hour of one of its machines costs; an empty field: no price."""
    text = request.form.get("price_per_hour", "").strip()
    if text and not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,9})?", text):
        raise InvalidRequest("A price is a number such as 0.25, from 0 to 1,000,000.")
    changes = load(GROUP_CHANGES, {"price_per_hour": float(text) if text else None})
    groups.change(db(), caller(), group, changes)
    return f"An hour of a machine costs {text} from now on." if text else "The group has no price any more."


def set_rule(group: str) -> str:
    """Make the rule of a group, or change it."""
    the_id = as_id(group)
    given: dict[str, Any] = {name: as_number(name) for name in LIMITS}
    if the_id is None:
        raise InvalidRequest("Only a container group of Salad's, whose id is a UUID, can have a rule.")
    if rule_of(the_id):
        rules.change_rule(db(), caller(), the_id, load(RULE_CHANGES, given))
        return "The rule is changed."
    new = load(NEW_RULE, {"container_group_id": group, **given})
    rules.create_rule(db(), coordinator().lookups, caller(), new)
    return "The rule is made: the autoscaler follows it from its next run on."


def remove_rule(group: str) -> str:
    the_id = as_id(group)
    if the_id is None:
        raise RuleNotFound(group)
    rules.delete_rule(db(), caller(), the_id)
    return "The rule is removed; the group stays as it is."


def as_name(text: str) -> str:
    """The id of a group as it came. Raises InvalidRequest if no group can have it."""
    if not 0 < len(text) <= LONGEST_NAME or UNSTORABLE.search(text) or "\ufffd" in text:
        raise InvalidRequest("There is no container group of this name.")
    return text


def as_id(group: str) -> UUID | None:
    """The id of a group at Salad; None: it is none."""
    try:
        return parse_uuid(group)
    except ValueError:
        return None


def as_number(name: str) -> int:
    text = request.form.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(f"{name.replace('_', ' ').capitalize()} is a whole number.")
    return int(text)


VERBS: dict[str, Callable[[str], str]] = {
    "pause": pause,
    "resume": resume,
    "price": set_price,
    "rule": set_rule,
    "remove-rule": remove_rule,
}
