"""The metrics that Prometheus reads."""

from __future__ import annotations

from flask import Response, current_app

from kelpie_api import metrics
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.context import coordinator

blueprint = Blueprint("metrics", __name__, description="For monitoring; no key needed.")


@blueprint.get("/metrics")
@blueprint.response(200, {"type": "string"}, content_type="text/plain")
def get_metrics() -> Response:
    """Counters and gauges over all tenants, in Prometheus's text format."""
    queue = current_app.extensions.setdefault("kelpie-queue-gauges", metrics.QueueGauges(coordinator().db))
    return Response(metrics.exposition(queue), content_type=metrics.CONTENT_TYPE)
