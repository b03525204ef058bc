"""Scaling rules, decisions, and the numbers of a group (docs/design/protocol.md, Scaling)."""

from __future__ import annotations

from marshmallow import fields, validate

from kelpie_api.schemas.fields import Instant, PageQuery, QueryNumber, RequestSchema, ResponseSchema, StrictInteger

REPLICAS = validate.Range(0, 500)
IDLE_SECONDS = validate.Range(0, 3600)


class RuleChanges(RequestSchema):
    """The fields of a scaling rule that can be changed."""

    min_replicas = StrictInteger(validate=REPLICAS)
    max_replicas = StrictInteger(validate=REPLICAS)
    idle_threshold_seconds = StrictInteger(validate=IDLE_SECONDS)


class NewRule(RequestSchema):
    container_group_id = fields.UUID(required=True, metadata={"example": "97f504e8-6de6-4322-b5d5-1777a59a7ad3"})
    min_replicas = StrictInteger(required=True, validate=REPLICAS)
    max_replicas = StrictInteger(required=True, validate=REPLICAS)
    idle_threshold_seconds = StrictInteger(load_default=0, validate=IDLE_SECONDS)


class Rule(ResponseSchema):
    sometimes = ("warnings",)

    warnings = fields.List(fields.String())
    container_group_id = fields.UUID()
    user_id = fields.UUID()
    org_name = fields.String()
    project_name = fields.String()
    container_group_name = fields.String()
    min_replicas = fields.Integer()
    max_replicas = fields.Integer()
    idle_threshold_seconds = fields.Integer()
    created = Instant()
    updated = Instant()


class RuleList(ResponseSchema):
    _count = fields.Integer()
    rules = fields.List(fields.Nested(Rule))


class ScalingDecision(ResponseSchema):
    """What one run of the autoscaler observed, decided and did; null where the run did not get that far."""

    id = fields.Integer()
    at = Instant()
    container_group_id = fields.UUID()
    active = fields.Integer(allow_none=True)
    warm = fields.Integer(allow_none=True)
    observed_state = fields.String(allow_none=True)
    observed_replicas = fields.Integer(allow_none=True)
    observed_running = fields.Integer(allow_none=True)
    observed_allocating = fields.Integer(allow_none=True)
    desired_replicas = fields.Integer(allow_none=True)
    action = fields.String(allow_none=True)
    outcome = fields.String(validate=validate.OneOf(["ok", "failed"]))
    error = fields.String(allow_none=True)


class DecisionQuery(PageQuery):
    before = QueryNumber(
        data_key="cursor",
        load_default=None,
        validate=validate.Range(0, 2**63 - 1),
        metadata={"description": "From the Link header of the page before; it wins over page."},
    )


class DecisionPage(ResponseSchema):
    """`replica_hours` counts from `since`, the time of the oldest stored decision."""

    _count = fields.Integer()
    decisions = fields.List(fields.Nested(ScalingDecision))
    replica_hours = fields.Float()
    since = Instant(allow_none=True)


class GroupMetrics(ResponseSchema):
    pending = fields.Integer()
    running = fields.Integer()
    active = fields.Integer()
    parked = fields.Integer()
    desired_replicas = fields.Integer()
    oldest_pending_seconds = fields.Float()
