"""Which routes need no caller, and which ones a machine's token may call."""

from __future__ import annotations

from kelpie_api.auth.caller import Caller, Role
from kelpie_api.errors import Forbidden
from kelpie_api.web.context import coordinator

PUBLIC = {
    "health.healthz",
    "health.readyz",
    "metrics.get_metrics",
    "docs.get_document",
    "docs.get_yaml",
    "docs.get_page",
    "docs.get_asset",
}
DATABASE_FREE = {"health.healthz", "metrics.get_metrics"}

# What a machine's token may call; a route that is not named here is closed to it (a node's owner can read it).
OPEN_TO_MACHINES = {
    "work.get_work",
    "work.heartbeat",
    "work.completed",
    "work.failed",
    "work.released",
    "work.keep_checkpoint",
    "work.resumed",
    "jobs.list_jobs",
    "jobs.get_job",
    "jobs.list_attempts",
    "jobs.list_events",
    "users.get_me",
}
# And what else, if the operator allows it (KELPIE_JWT_CAN_SUBMIT).
OPEN_TO_SUBMITTING_MACHINES = {
    "jobs.submit_job",
    "jobs.submit_job_by_old_path",
    "jobs.submit_batch",
    "jobs.cancel_job",
    "scaling.create_rule",
    "scaling.list_rules",
    "scaling.get_rule",
    "scaling.change_rule",
    "scaling.delete_rule",
    "scaling.list_decisions",
    "scaling.get_group_metrics",
}


# What a key with the role `worker` may call: it names no machine and no group, so it reads no list.
OPEN_TO_WORKERS_KEYS = {endpoint for endpoint in OPEN_TO_MACHINES if endpoint.startswith("work.")} | {
    "jobs.get_job",
    "users.get_me",
}


def require_open(caller: Caller, endpoint: str) -> None:
    """Raise Forbidden if this route is closed to a caller with these credentials."""
    if caller.machine:
        require_open_to_machines(endpoint)
    elif caller.role == Role.WORKER and endpoint not in OPEN_TO_WORKERS_KEYS:
        raise Forbidden(
            "A worker's key may claim, report and read jobs that were handed out; use a user's key for this."
        )


def require_open_to_machines(endpoint: str) -> None:
    if endpoint in OPEN_TO_MACHINES:
        return
    if not (coordinator().config.jwt_can_submit and endpoint in OPEN_TO_SUBMITTING_MACHINES):
        raise Forbidden("A machine's token may work, report and read jobs of its own group; use a key for this.")
