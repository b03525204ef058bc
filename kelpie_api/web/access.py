"""Which credentials each route is open to: one table. A route that is missing in it is closed to all, and a test
fails."""

from __future__ import annotations

from enum import Flag, auto

from kelpie_api.auth.caller import Caller, Role
from kelpie_api.errors import Forbidden
from kelpie_api.web.context import coordinator


class To(Flag):
    """Kinds of credentials."""

    ALL = auto()  # no credential is needed
    OPERATORS = auto()  # a Kelpie key of this role, and a Salad API key
    VIEWERS = auto()  # a Kelpie key of this role
    WORKERS = auto()  # a Kelpie key of this role: it names no machine and no group, so it reads no list
    TOKENS = auto()  # a machine's token; a node's owner can read it
    SUBMITTING_TOKENS = auto()  # a machine's token where the operator allows it more (KELPIE_JWT_CAN_SUBMIT)
    ADMINISTRATORS = auto()
    READERS = OPERATORS | VIEWERS
    HOLDERS = OPERATORS | WORKERS | TOKENS  # what takes jobs and reports


OPEN = {
    "health.healthz": To.ALL,
    "health.readyz": To.ALL,
    "metrics.get_metrics": To.ALL,
    "docs.get_document": To.ALL,
    "docs.get_yaml": To.ALL,
    "docs.get_page": To.ALL,
    "docs.get_asset": To.ALL,
    # pages, by the key of the session
    "dashboard.get_root": To.ALL,
    "dashboard.get_sign_in": To.ALL,
    "dashboard.sign_in": To.ALL,
    "dashboard.get_once": To.ALL,  # of a local stack; elsewhere there is none
    "dashboard.sign_in_once": To.ALL,
    "dashboard.get_asset": To.ALL,
    "dashboard.get_nothing": To.ALL,
    "dashboard.sign_out": To.READERS,
    "dashboard.get_overview": To.READERS,
    "dashboard.list_sweeps": To.READERS,
    "dashboard.get_sweep": To.READERS,
    "dashboard.change_sweep": To.OPERATORS,
    "dashboard.list_groups": To.READERS,
    "dashboard.get_group": To.READERS,
    "dashboard.change_group": To.OPERATORS,
    "dashboard.list_machines": To.READERS,
    "dashboard.get_usage": To.READERS,
    "dashboard.list_jobs": To.READERS,
    "dashboard.get_change": To.OPERATORS,
    "dashboard.change_jobs": To.OPERATORS,
    "dashboard.get_job": To.READERS,
    "dashboard.steer_job": To.OPERATORS,
    "dashboard.redeliver_webhook": To.OPERATORS,
    "dashboard.get_output": To.READERS,
    "dashboard.get_settings": To.READERS,
    "dashboard.change_settings": To.OPERATORS,
    # jobs
    "jobs.submit_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "jobs.submit_job_by_old_path": To.OPERATORS | To.SUBMITTING_TOKENS,
    "jobs.submit_batch": To.OPERATORS | To.SUBMITTING_TOKENS,
    "jobs.list_jobs": To.READERS | To.TOKENS,
    "jobs.get_job": To.READERS | To.WORKERS | To.TOKENS,
    "jobs.why_job": To.READERS,
    "jobs.list_attempts": To.READERS | To.TOKENS,
    "jobs.list_events": To.READERS | To.TOKENS,
    "jobs.get_checkpoint": To.READERS | To.TOKENS,
    "progress.get_progress": To.READERS | To.WORKERS | To.TOKENS,
    "steering.hold_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.resume_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.interrupt_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.rerun_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.change_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.lift_bans": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.lift_ban": To.OPERATORS | To.SUBMITTING_TOKENS,
    "steering.change_group": To.OPERATORS,
    "jobs.cancel_job": To.OPERATORS | To.SUBMITTING_TOKENS,
    "bulk.count_jobs": To.READERS,
    "bulk.cancel_jobs": To.OPERATORS,
    "bulk.hold_jobs": To.OPERATORS,
    "bulk.resume_jobs": To.OPERATORS,
    "bulk.rerun_jobs": To.OPERATORS,
    "jobs.purge_group": To.OPERATORS,
    "jobs.purge_jobs": To.ADMINISTRATORS,
    # work
    "work.get_work": To.HOLDERS,
    "work.heartbeat": To.HOLDERS,
    "work.completed": To.HOLDERS,
    "work.failed": To.HOLDERS,
    "work.released": To.HOLDERS,
    "work.keep_checkpoint": To.HOLDERS,
    "work.resumed": To.HOLDERS,
    "output.keep_output": To.HOLDERS,
    "output.get_output": To.READERS | To.TOKENS,
    # sweeps
    "sweeps.create_sweep": To.OPERATORS,
    "sweeps.list_sweeps": To.READERS,
    "sweeps.get_sweep": To.READERS,
    "sweeps.change_sweep": To.OPERATORS,
    "sweeps.cancel_sweep": To.OPERATORS,
    # usage, machines and scaling
    "usage.get_usage": To.READERS,
    "machines.list_machines": To.READERS,
    "scaling.create_rule": To.OPERATORS | To.SUBMITTING_TOKENS,
    "scaling.list_rules": To.READERS | To.SUBMITTING_TOKENS,
    "scaling.get_rule": To.READERS | To.SUBMITTING_TOKENS,
    "scaling.change_rule": To.OPERATORS | To.SUBMITTING_TOKENS,
    "scaling.delete_rule": To.OPERATORS | To.SUBMITTING_TOKENS,
    "scaling.delete_rules": To.ADMINISTRATORS,
    "scaling.list_decisions": To.READERS | To.SUBMITTING_TOKENS,
    "scaling.get_group_metrics": To.READERS | To.SUBMITTING_TOKENS,
    # webhooks
    "webhooks.list_webhooks": To.READERS,
    "webhooks.redeliver_webhook": To.OPERATORS,
    "webhooks.get_signing_secret": To.OPERATORS,
    "webhooks.rotate_signing_secret": To.OPERATORS,
    # keys, secrets and users
    "keys.create_key": To.OPERATORS,
    "keys.list_keys": To.READERS,
    "keys.delete_key": To.OPERATORS,
    "secrets.put_secret": To.OPERATORS,
    "secrets.list_secrets": To.READERS,
    "secrets.delete_secret": To.OPERATORS,
    "users.get_me": To.READERS | To.WORKERS | To.TOKENS,
    "users.list_users": To.ADMINISTRATORS,
    "users.create_user": To.ADMINISTRATORS,
    "users.create_token": To.ADMINISTRATORS,
    "users.delete_user": To.ADMINISTRATORS,
    "users.delete_users": To.ADMINISTRATORS,
}
PUBLIC = {endpoint for endpoint, credentials in OPEN.items() if To.ALL in credentials}
DATABASE_FREE = {"health.healthz", "metrics.get_metrics"}

OF_ROLE = {Role.OPERATOR: To.OPERATORS, Role.VIEWER: To.VIEWERS, Role.WORKER: To.WORKERS}
REFUSALS = {
    To.TOKENS: "A machine's token may work, report and read jobs of its own group; use a key for this.",
    To.WORKERS: "A worker's key may claim, report and read jobs that were handed out; use an operator's key.",
    To.VIEWERS: "A viewer's key reads and changes nothing; use an operator's key for this.",
}


def require_open(caller: Caller, endpoint: str) -> None:
    """Raise Forbidden if this route is closed to a caller with these credentials."""
    credentials = OPEN.get(endpoint, To(0))
    if not credentials & credentials_of(caller, coordinator().config.jwt_can_submit):
        refusals = [sentence for kind, sentence in REFUSALS.items() if kind in credentials_of(caller, False)]
        raise Forbidden(refusals[0] if refusals else "Only the administrator may do this.")


def credentials_of(caller: Caller, tokens_submit: bool) -> To:
    """What a caller came with."""
    if caller.machine:
        return To.TOKENS | To.SUBMITTING_TOKENS if tokens_submit else To.TOKENS
    return OF_ROLE[caller.role] | (To.ADMINISTRATORS if caller.is_admin else To(0))
