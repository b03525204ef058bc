"""Everything that can happen to machines, ways and servers, at random, while jobs go through."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from local_stack.client import ApiRefusedError, ApiUnavailableError
from local_stack.processes import wait_for
from tests.containers.fleet import SILENCE, Fleet, Node

NODES = 4
WAITING = 3  # jobs that are kept in the queue
LONGEST = 3 * SILENCE  # seconds that a fault lasts
UNFINISHED = ("pending", "running")
Heal = Callable[[], None]


@dataclass
class Storm:
    """`told` is all output of the nodes, including those that are gone; `stopped` are their exit codes."""

    fleet: Fleet
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    steps: dict[str, int] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    under_way: dict[str, tuple[float, Heal]] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.on_nodes: dict[Callable[[str, Node], Heal], int] = {
            self.vanish: 3,
            self.restart: 3,
            self.pause: 4,
            self.cut_api: 3,
            self.cut_bucket: 2,
            self.cut_both: 2,
            self.shut_down: 2,
        }
        self.on_servers: dict[str, Callable[[], Heal]] = {
            "api": lambda: self.kill_service("api"),
            "postgres": lambda: self.kill_service("postgres"),
            "s3": self.stall_bucket,
        }

    def rage(self, seconds: float) -> None:
        for _ in range(NODES):
            self.add_node()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.keep_jobs_waiting()
            self.strike()
            self.heal(time.monotonic())
            time.sleep(self.random.uniform(0.5, 3))
        self.heal(float("inf"))

    def calm(self) -> None:
        """Until every job is final."""

        def all_is_done() -> bool:
            try:
                return not any(self.fleet.jobs(status) for status in UNFINISHED)
            except ApiUnavailableError:  # it is not back yet
                return False

        wait_for(all_is_done, "all jobs to be done", timeout=300, pause=1)
        for node in self.fleet.nodes.values():
            self.told.append(node.printed)

    def keep_jobs_waiting(self) -> None:
        try:
            if len(self.fleet.jobs("pending")) < WAITING:
                steps = self.random.randint(8, 40)
                self.steps[self.fleet.submit(steps, self.random.choice(["steps", "names"]))] = steps
        except (ApiUnavailableError, ApiRefusedError):  # as the storm wanted it
            self.faults["user turned away"] += 1

    def strike(self) -> None:
        if self.random.random() < 0.07:
            name = self.random.choice(list(self.on_servers))
            if name not in self.under_way:
                self.begin(name, f"{name} down", self.on_servers[name]())
            return
        whole = [name for name in self.fleet.nodes if name not in self.under_way]
        if len(whole) > 1:
            name = self.random.choice(whole)
            [fault] = self.random.choices(list(self.on_nodes), list(self.on_nodes.values()))
            self.begin(name, fault.__name__, fault(name, self.fleet.nodes[name]))

    def begin(self, name: str, fault: str, heal: Heal) -> None:
        self.faults[fault] += 1
        self.say(f"{name}: {fault}")
        self.under_way[name] = (time.monotonic() + self.random.uniform(0.2, LONGEST), heal)

    def heal(self, now: float) -> None:
        for name, (due, heal) in list(self.under_way.items()):
            if due <= now:
                del self.under_way[name]
                self.say(f"{name}: healed")
                heal()

    def say(self, what: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {what}", flush=True)

    # --- what can happen --------------------------------------------------------------------------------

    def add_node(self) -> None:
        self.made += 1
        self.fleet.start_node(f"m{self.made}")

    def replace(self, name: str) -> Heal:
        node = self.fleet.nodes.pop(name)
        self.told.append(node.printed)
        node.remove()
        return self.add_node

    def vanish(self, name: str, node: Node) -> Heal:
        node.kill()
        return self.replace(name)

    def shut_down(self, name: str, node: Node) -> Heal:
        self.stopped.append(node.stop())
        return self.replace(name)

    def restart(self, name: str, node: Node) -> Heal:
        node.kill()
        return node.start

    def pause(self, name: str, node: Node) -> Heal:
        node.pause()
        return node.unpause

    def cut_api(self, name: str, node: Node) -> Heal:
        node.cut("api")
        return node.heal

    def cut_bucket(self, name: str, node: Node) -> Heal:
        node.cut("bucket")
        return node.heal

    def cut_both(self, name: str, node: Node) -> Heal:
        node.cut("api", "bucket")
        return node.heal

    def kill_service(self, service: str) -> Heal:
        self.fleet.stack.kill(service)
        return lambda: self.fleet.stack.start(service)

    def stall_bucket(self) -> Heal:
        bucket = self.fleet.bucket
        if bucket.survives_a_kill and self.random.random() < 0.5:
            bucket.kill()
            return bucket.start
        bucket.pause()
        return bucket.unpause

    # --- what is shown afterwards ------------------------------------------------------------------------

    def sentence(self) -> str:
        told = "\n".join(self.told)
        ways = ["from the start", "resumed from", "torn, from the start", "says that it is whole"]
        starts = {way: told.count(f"relay: {way}") for way in ways[:2]} | {
            way: told.count(way) for way in ways[2:]
        }
        return f"seed {self.seed}; {len(self.steps)} jobs; faults {dict(self.faults)}; starts {starts}"
