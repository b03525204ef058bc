"""The authenticated caller of a request: all that the rooms below know of the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from kelpie_api.errors import (
    Forbidden,
)

NO_TENANT = 0  # an id that no row has


class Role(StrEnum):
    """What a Kelpie key is good for; the API's words."""

    OPERATOR = "operator"  # all that its user may do
    VIEWER = "viewer"  # to read, but for the values of environments
    WORKER = "worker"  # to claim, to report, and to read what was handed out

    @classmethod
    def _missing_(cls, value: object) -> Role | None:
        """An operator was called a user once."""
        return cls.OPERATOR if value == "user" else None


@dataclass(frozen=True)
class Caller:
    """The user of a request, and the tenant (user, project) that owns what the request creates.

    `sealed_key` is its API key, encrypted, for the webhooks that its report causes. `groups` are the container
    groups with the jobs that it may touch ('' is the null group); None: all groups of the tenant. `machine` is the
    machine of a token, None for a key. `speaks_for_others`: it may name other machines and groups than its own.
    """

    user_id: UUID
    username: str
    tenant_id: int
    is_admin: bool = False
    sealed_key: bytes | None = field(default=None, repr=False)
    groups: list[str] | None = None
    machine: Machine | None = None
    serves_null_group: bool = True
    speaks_for_others: bool = False
    organization: str = ""  # at Salad; the administrator has none
    project: str = ""
    role: Role = Role.OPERATOR
    key_id: UUID | None = None  # of a key that Kelpie made
    key_name: str | None = None

    @property
    def scope(self) -> dict[str, Any]:
        """The parameters that restrict a statement to the caller's rows: tenant and groups; None means all."""
        return {"scope": None if self.is_admin else self.tenant_id, "groups": self.groups}

    def served_groups(self, container_group_id: str) -> list[str]:
        """The groups from which a machine of this group is handed jobs: its own, and '' for the null group."""
        served = [container_group_id, ""] if self.serves_null_group else [container_group_id]
        return [group for group in served if self.groups is None or group in self.groups]

    @property
    def is_worker(self) -> bool:
        """Whether this is a node's credential, which the node's owner can read: a token, or a worker's key."""
        return self.machine is not None or self.role == Role.WORKER

    @property
    def actor(self) -> str:
        """What events name: a machine, or a user, with the name of the key if it has one."""
        if self.machine:
            return f"machine:{self.machine.machine_id}"
        return f"user:{self.username}" + (f" key:{self.key_name}" if self.key_name else "")

    def require_own(self, machine_id: str, container_group_id: str) -> None:
        """Raise Forbidden if a token claims or reports for another machine or group than its own."""
        if self.machine is None or self.speaks_for_others:
            return
        if (machine_id, container_group_id) != (self.machine.machine_id, self.machine.workload_id):
            raise Forbidden(
                "A token is good for its own machine only: machine_id must be its salad_machine_id and"
                " container_group_id its salad_workload_id."
            )

    def require_own_group(self, container_group_id: str | None) -> None:
        """Raise Forbidden if a token submits for, cancels in, or scales another group than its own."""
        if self.machine and container_group_id != self.machine.workload_id:
            raise Forbidden(
                "A token may submit and cancel jobs of its own container group only, and scale no other."
            )

    def require_key(self, named: str) -> None:
        """Raise Forbidden if a token submits a job that names such things, whatever else it may."""
        if self.machine:
            raise Forbidden(f"A machine's token names no {named}; submit such a job with a key.")

    def require_tenant(self) -> None:
        """Raise Forbidden if the caller has no tenant that could own what it creates."""
        if self.tenant_id == NO_TENANT:
            raise Forbidden(
                f"The project {self.project} of {self.organization} is new here, and Salad did not say that the"
                " container group of this token is in it; check Salad-Project, or begin with a key."
            )


@dataclass(frozen=True)
class Machine:
    """The machine that a token names."""

    organization: str
    workload_id: str  # the id of its container group
    machine_id: str
