"""Scaling rules, the autoscaler's decisions, and the numbers that other autoscalers read
(docs/design/protocol.md, Scaling)."""

from __future__ import annotations

from typing import Any

from kelpie_api.db import Row
from kelpie_api.routes.jobs import group_name
from kelpie_api.scaling import rules as scaling_rules
from kelpie_api.schemas.fields import Failure, RequestSchema
from kelpie_api.schemas.scaling import (
    DecisionPage,
    DecisionQuery,
    GroupMetrics,
    NewRule,
    Rule,
    RuleChanges,
    RuleList,
)
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import ignored, request_json, with_warnings
from kelpie_api.web.context import TEXT, caller, coordinator, db, identifier
from kelpie_api.web.narrowing import require_no_parameters
from kelpie_api.web.pages import link_after

blueprint = Blueprint("scaling", __name__, description="Container groups that follow their queues.")
RULE = "/scaling-rules/<container_group_id>"
NEW_RULE, CHANGES = NewRule(), RuleChanges()
WHAT = "container group with a scaling rule"


def warned(rule: Row, schema: RequestSchema) -> Row:
    return with_warnings(rule, ignored(schema, request_json(), "a field that can be set here"))


@blueprint.post("/scaling-rules")
@blueprint.arguments(NEW_RULE)
@blueprint.response(201, Rule)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(429, schema=Failure)
@blueprint.alt_response(503, schema=Failure)
def create_rule(new: dict[str, Any]) -> Row:
    """Make a rule: a container group follows its queue."""
    made = scaling_rules.create_rule(db(), coordinator().lookups, caller(), new)
    return warned(made, NEW_RULE)


@blueprint.get("/scaling-rules")
@blueprint.response(200, RuleList)
def list_rules() -> Row:
    """List the rules."""
    rules = scaling_rules.list_rules(db(), caller())
    return {"_count": len(rules), "rules": rules}


@blueprint.delete("/scaling-rules")
@blueprint.response(204)
@blueprint.alt_response(403, schema=Failure)
def delete_rules() -> None:
    """Remove all rules of all users (administrator). It takes no parameters."""
    require_no_parameters(
        "all scaling rules of all users", "DELETE /scaling-rules/{container_group_id} removes one."
    )
    scaling_rules.delete_rules(db())


@blueprint.get(RULE)
@blueprint.response(200, Rule)
@blueprint.alt_response(404, schema=Failure)
def get_rule(container_group_id: str) -> Row:
    """Read a rule."""
    return scaling_rules.get_rule(db(), caller(), identifier(container_group_id, WHAT))


@blueprint.route(RULE, methods=["PATCH"])
@blueprint.arguments(CHANGES)
@blueprint.response(200, Rule)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def change_rule(changes: dict[str, int], container_group_id: str) -> Row:
    """Change a rule; fields that are not given stay."""
    changed = scaling_rules.change_rule(db(), caller(), identifier(container_group_id, WHAT), changes)
    return warned(changed, CHANGES)


@blueprint.delete(RULE)
@blueprint.response(204)
@blueprint.alt_response(404, schema=Failure)
def delete_rule(container_group_id: str) -> None:
    """Remove a rule; the group stays as it is."""
    scaling_rules.delete_rule(db(), caller(), identifier(container_group_id, WHAT))


@blueprint.get(f"{RULE}/decisions")
@blueprint.arguments(DecisionQuery, location="query")
@blueprint.response(200, DecisionPage, headers={"Link": TEXT})
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def list_decisions(query: dict[str, Any], container_group_id: str) -> tuple[Row, int, dict[str, str]]:
    """The autoscaler's decisions for a group, newest first, and the replica-hours that they add up to; `Link`
    leads to the next page, if there is one."""
    group_id = identifier(container_group_id, WHAT)
    answer, following = scaling_rules.decisions(db(), caller(), group_id, **query)
    return answer, 200, link_after(following)


@blueprint.get("/container-groups/<text:container_group_id>/metrics")
@blueprint.response(200, GroupMetrics)
@blueprint.alt_response(400, schema=Failure)
def get_group_metrics(container_group_id: str) -> Row:
    """The numbers of a container group's jobs, for other autoscalers; zeros if it has none."""
    return scaling_rules.metrics(db(), caller(), group_name(container_group_id))
