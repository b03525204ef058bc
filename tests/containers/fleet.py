"""Workers as their users run them: containers of the image in examples/container, with the frozen binary in it.

Each has two networks, one to the API and one to the bucket, and can be cut off from either.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import docker
from docker.errors import APIError
from docker.models.containers import Container
from docker.models.networks import Network

from local_stack.client import ApiClient, ApiUnavailableError, Job
from local_stack.processes import wait_for
from local_stack.stack import NO_METADATA_SERVICE
from tests.containers.bucket import BucketServer
from tests.containers.compose import Compose

BUCKET = "relay"
INTERVAL = 3  # seconds between the heartbeats of a job
UNHURRIED = 60  # the same, where no lease must lapse
SILENCE = 2 * INTERVAL  # seconds until a lease lapses
STEPS = 12
ENDLESS = 10_000  # steps of a job that a test does not let end
SECONDS_PER_STEP = "0.3"
INPUT = b"the input of the job\n"
INPUT_PREFIX = "input/"
Way = Literal["api", "bucket"]


class Node:
    """A machine with one worker, or whatever `command` starts."""

    def __init__(self, container: Container, networks: dict[Way, Network]) -> None:
        self.container = container
        self.networks = networks
        self.cuts: set[Way] = set()

    def start(self) -> None:
        self.container.start()

    def kill(self) -> None:
        self.container.kill()

    def remove(self) -> None:
        self.container.remove(force=True)

    def pause(self) -> None:
        wait_for(self._frozen, "the container to be paused")

    def unpause(self) -> None:
        self.container.unpause()

    def stop(self) -> int:
        """`docker stop` with all the time that a worker may want; the exit code."""
        self.container.stop(timeout=40)
        return int(self.container.wait(timeout=30)["StatusCode"])

    def _frozen(self) -> bool:
        """Sometimes the kernel cannot freeze a busy container at once."""
        try:
            self.container.pause()
        except APIError as error:
            if "unable to freeze" not in str(error):
                raise
            return False
        return True

    def cut(self, *ways: Way) -> None:
        for way in ways:
            self.networks[way].disconnect(self.container, force=True)
            self.cuts.add(way)

    def heal(self) -> None:
        while self.cuts:
            self.networks[self.cuts.pop()].connect(self.container)

    @property
    def printed(self) -> str:
        """By the commands of its jobs, and by Kelpie."""
        text: str = self.container.logs().decode(errors="replace")
        return text

    def seen(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """The worker's log entries of that name with those facts, since the container was made."""
        found = (json.loads(line) for line in self.printed.splitlines() if line.startswith("{"))
        wanted = {"event": event, **facts}
        return [entry for entry in found if wanted.items() <= entry.items()]

    def wait_for(self, event: str, timeout: float = 60, **facts: Any) -> None:
        try:
            wait_for(lambda: self.seen(event, **facts), f"{event} {facts}", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it printed:\n{self.printed}") from error

    def shell(self, script: str) -> str:
        code, output = self.container.exec_run(["sh", "-c", script])
        assert code == 0, output
        text: str = output.decode(errors="replace")
        return text


@dataclass
class Fleet:
    """The nodes of one container group, and what its user can see. Everything of it has the group's name."""

    stack: Compose
    bucket: BucketServer
    bucket_network: Network
    image: str
    key: str
    group: str = field(default_factory=lambda: f"group-{uuid.uuid4().hex[:8]}")
    nodes: dict[str, Node] = field(default_factory=dict)

    @cached_property
    def docker(self) -> docker.DockerClient:
        return docker.from_env()

    @cached_property
    def user(self) -> ApiClient:
        return ApiClient(self.stack.url, self.key, timeout=5)

    @property
    def api_network(self) -> Network:
        return self.docker.networks.get(f"{self.stack.project}_default")

    def start_node(self, machine: str, command: list[str] | None = None, **environment: str) -> Node:
        settings = {
            "KELPIE_API_URL": "http://proxy:8080",
            "KELPIE_API_KEY": self.key,
            "SALAD_CONTAINER_GROUP_ID": self.group,
            "SALAD_MACHINE_ID": machine,
            "SALAD_IMDS_URL": NO_METADATA_SERVICE,
            "HEARTBEAT_INTERVAL_S": "1",
            **self.bucket.seen_by_workers,
            **environment,
        }
        networks: dict[Way, Network] = {"api": self.api_network, "bucket": self.bucket_network}
        container = self.docker.containers.create(
            self.image, command, environment=settings, network=self.api_network.name
        )
        self.bucket_network.connect(container)
        self.nodes[machine] = node = Node(container, networks)
        node.start()
        return node

    def remove(self) -> None:
        for node in self.nodes.values():
            node.remove()
        self.docker.close()

    # --- jobs ---------------------------------------------------------------------------------------

    def submit(self, steps: int = STEPS, layout: str = "steps", interval: int = INTERVAL) -> str:
        """Its id; its files lie under a prefix of its own, the input is the same for all."""
        submitted = self.user.submit(
            relay(self.group, uuid.uuid4().hex[:8], steps, layout) | {"heartbeat_interval": interval}
        )
        return str(submitted["id"])

    def jobs(self, status: str) -> list[Job]:
        return self.user.jobs(container_group_id=self.group, status=status, page_size=1000)

    def prefix(self, job_id: str) -> str:
        return str(self.user.job(job_id)["sync"]["during"][0]["prefix"]).removesuffix("checkpoint/")

    def attempts(self, job_id: str) -> list[tuple[str | None, str | None]]:
        """(machine, outcome) of each."""
        return [(attempt["machine_id"], attempt["outcome"]) for attempt in self.user.attempts(job_id)]

    def saved_step(self, job_id: str) -> int:
        """The step of the checkpoint in the bucket; 0 if there is none."""
        found = self.bucket.files(BUCKET, f"{self.prefix(job_id)}checkpoint/latest")
        return int(found.get("", b"0"))

    def wait_until_saved(self, job_id: str, step: int = 2) -> None:
        self._wait(lambda: self.saved_step(job_id) >= step, f"step {step} in the bucket")

    def wait_until_held(self, job_id: str, machine: str) -> None:
        self._wait(lambda: self.attempts(job_id)[-1:] == [(machine, None)], f"{machine} to hold the job")

    def wait_until_completed(self, job_id: str, steps: int = STEPS) -> None:
        """And its outputs are those of a run that nothing happened to."""
        self._wait(lambda: self.user.job(job_id)["status"] == "completed", "the job to be completed")
        assert self.outputs(job_id) == expected(steps)

    def outputs(self, job_id: str) -> dict[str, bytes]:
        return self.bucket.files(BUCKET, f"{self.prefix(job_id)}out/")

    def everything_of(self, job_id: str) -> tuple[dict[str, bytes], Job, list[Job], list[Job]]:
        """All that a zombie could change."""
        user = self.user
        return (
            self.bucket.files(BUCKET, self.prefix(job_id)),
            user.job(job_id),
            user.attempts(job_id),
            user.events(job_id),
        )

    def _wait(self, fact: Callable[[], bool], what: str) -> None:
        def seen() -> bool:
            try:
                return fact()
            except ApiUnavailableError:  # a server was taken away
                return False

        try:
            wait_for(seen, what, timeout=90, pause=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs()}") from error

    def logs(self) -> str:
        return "\n".join(f"--- {machine}\n{node.printed}" for machine, node in self.nodes.items())


def relay(group: str, name: str, steps: int, layout: str) -> Job:
    """The example as a job."""

    def block(kind: str, direction: str) -> dict[str, str]:
        return {
            "bucket": BUCKET,
            "prefix": f"{group}/{name}/{kind}/",
            "local_path": kind,
            "direction": direction,
        }

    return {
        "command": "/work/relay.sh",
        "arguments": [str(steps), layout],
        "environment": {"SECONDS_PER_STEP": SECONDS_PER_STEP},
        "container_group_id": group,
        "sync": {
            "before": [
                {"bucket": BUCKET, "prefix": INPUT_PREFIX, "local_path": "in", "direction": "download"},
                block("checkpoint", "download"),
            ],
            "during": [block("checkpoint", "upload")],
            "after": [block("out", "upload")],
        },
    }


def expected(steps: int) -> dict[str, bytes]:
    """What relay.sh leaves in out/ where nothing ever happens to it."""

    def digest(*words: object) -> str:
        return hashlib.sha256(" ".join(map(str, words)).encode()).hexdigest()

    def content(value: str) -> bytes:
        return f"{steps} {value}\n".encode() * 2000

    start = INPUT.decode().rstrip("\n")
    one, two, three = (digest(name, start) for name in ("one", "two", "three"))
    for step in range(1, steps + 1):
        one = digest(step, one, three)
        two = digest(step, two, one)
        three = digest(step, three, two)
    result = f"{digest(one, two, three)}\n".encode()
    return {"parts/one": content(one), "parts/two": content(two), "result": result}
