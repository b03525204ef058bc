"""How many kills leave a torn checkpoint, or none: by calculation, and by really killing workers.

A job saves a checkpoint of several files repeatedly, over a connection of limited bandwidth. At a random moment
its machine vanishes: every process, every file, every byte in transit. A new worker in an empty folder resumes
the job, whose command checks the content of the checkpoint that it was given, and goes on training until the next
kill.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import click

from bench import torn_model
from bench.api import ROOT, serve
from bench.harness import HELP, Goals, make_tenant, opened, own_database, server
from bench.uplink import Uplink
from kelpie_worker.system.linux import descendants
from local_stack.processes import Child, scratch_folder, wait_for
from local_stack.s3 import S3Server
from local_stack.stack import NO_METADATA_SERVICE

BUCKET = "bench"
KINDS = {
    "steps": "a directory for each step",
    "fixed": "fixed names",
    "versions": "fixed names, the bucket keeps versions",
}
GOALS = {"steps": 0.0, "fixed": 0.02, "versions": 0.02}
UPLINKS = (10.0, 30.0, 60.0, 200.0)  # MB/s, for checkpoints of 2 GB a minute
LONGEST_START = 120.0
MB = 1_000_000


@dataclass(frozen=True)
class Size:
    kills: int  # of each kind
    files: int
    megabytes: int  # of one checkpoint
    period: float  # seconds between two saves
    uplink: float  # MB/s of each machine
    stability: int  # milliseconds: longer than a save may pause


@click.command(help=__doc__, context_settings=HELP)
@click.option("--kills", default=200, show_default=True, help="Of each kind.")
@click.option("--lanes", default=4, show_default=True, help="Machines at a time, of each kind.")
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True, default=list(KINDS))
@click.option("--megabytes", default=100, show_default=True, help="Of one checkpoint.")
@click.option("--files", default=4, show_default=True, help="Of one checkpoint, beside the small one.")
@click.option("--period", default=20.0, show_default=True, help="Seconds between two saves.")
@click.option("--uplink", default=15.0, show_default=True, help="MB/s of each machine.")
@click.option("--stability", default=250, show_default=True, help="FILE_WATCHER_STABILITY_CHECK_MS.")
@click.option("--seed", default=1, show_default=True)
@click.option("--calculation-only", is_flag=True)
@click.option("--small", is_flag=True, help="A few kills of each kind and small files; shares are not judged.")
def main(
    kills: int,
    lanes: int,
    kinds: tuple[str, ...],
    megabytes: int,
    files: int,
    period: float,
    uplink: float,
    stability: int,
    seed: int,
    calculation_only: bool,
    small: bool,
) -> None:
    goals = Goals(judged=not small)
    calculate(goals, kills=2_000 if small else 50_000, seed=seed)
    if not calculation_only:
        size = Size(kills, files, megabytes, period, uplink, stability)
        size = Size(2, 3, 6, 4, 30, 250) if small else size
        for kind, lives in killed(size, 1 if small else lanes, kinds, seed).items():
            judge(goals, kind, lives)
    sys.exit(goals.verdict())


# --- by calculation -------------------------------------------------------------------------------------


def calculate(goals: Goals, kills: int, seed: int) -> None:
    click.echo(f"by calculation, 2 GB a minute, uplink {'/'.join(f'{uplink:g}' for uplink in UPLINKS)} MB/s:")
    for policy, fixed, shares in torn_model.table(UPLINKS, kills, seed):
        shown = " / ".join(f"{share:.1%}" for share in shares)
        click.echo(f"  {policy:12} {'fixed names' if fixed else 'a directory for each step':26} {shown}")
        if policy == "generations":
            what = "fixed names: under 2 %" if fixed else "a directory for each step: none"
            goals.fact(f"calculated, {what}", max(shares) < 0.02 if fixed else max(shares) == 0)


# --- for real -------------------------------------------------------------------------------------------


@dataclass
class Lane:
    """One job, and the machines that run it one after the other, each until it vanishes."""

    kind: str
    number: int
    size: Size
    kills: int
    port: int  # of the API
    key: str
    folder: Path
    s3: S3Server
    uplink: Uplink
    chance: random.Random
    lives: list[dict[str, Any]] = field(default_factory=list)  # what each resume found
    seconds: list[float] = field(default_factory=list)  # from one kill to the next
    commits: list[float] = field(default_factory=list)  # seconds that each took

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def run(self) -> None:
        self.log.touch()
        job = self.submit()
        for life in range(self.kills + 1):
            began = time.monotonic()
            machine = Machine(self, f"{self.name}-{life}")
            found = self.found(machine, life)
            if life:
                self.lives.append(found)
            if life < self.kills:
                self.train(machine)
            machine.vanish(job)
            self.tidy()
            self.seconds.append(time.monotonic() - began)

    def train(self, machine: Machine) -> None:
        """Wait until the machine has uploaded a whole checkpoint of its own, and for a random part of a period.

        So each kill is judged by itself: a checkpoint that an earlier one left torn has been replaced.
        """
        wait_for(lambda: machine.told("checkpoint_committed"), "a whole checkpoint", LONGEST_START, pause=0.2)
        time.sleep(self.chance.uniform(0, self.size.period))
        self.commits += machine.commits()

    def found(self, machine: Machine, life: int) -> dict[str, Any]:
        def said() -> dict[str, Any] | None:
            if not machine.worker.alive:
                raise RuntimeError(f"the worker ended:\n{machine.worker.log_tail()}")
            lines = self.log.read_text().splitlines(keepends=True)
            whole = len(lines) > life and lines[life].endswith("\n")
            return dict(json.loads(lines[life])) if whole else None

        return wait_for(said, f"{machine.name} to resume", LONGEST_START) | {"worker_said": machine.said()}

    def submit(self) -> str:
        block = {"bucket": BUCKET, "prefix": "c/", "local_path": "checkpoint"}
        size = self.size
        kind = "steps" if self.kind == "steps" else "fixed"
        arguments = [kind, size.files, size.megabytes * MB, size.period, self.log]
        job = {
            "command": sys.executable,
            "arguments": [str(ROOT / "bench/trainer.py"), *map(str, arguments)],
            "container_group_id": self.name,
            "heartbeat_interval": 5,
            "sync": {
                "before": [{**block, "direction": "download"}],
                "during": [{**block, "direction": "upload"}],
            },
        }
        return str(self.ask("POST", "/jobs", job)["id"])

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"X-Kelpie-Key": self.key, "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path} was answered with {answer.status}: {content!r}")
            return dict(json.loads(content))
        finally:
            connection.close()

    def tidy(self) -> None:
        """Delete abandoned uploads and old versions, as a bucket's lifecycle rules do: the bucket is in memory."""
        client = boto3.client(
            "s3",
            endpoint_url=self.s3.url,
            aws_access_key_id=self.s3.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.s3.environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self.s3.environment["AWS_REGION"],
        )
        for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
            client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        kept = Counter[str]()
        if self.kind == "versions":
            for version in client.list_object_versions(Bucket=BUCKET).get("Versions", []):
                kept[version["Key"]] += 1
                if kept[version["Key"]] > 4:
                    client.delete_object(Bucket=BUCKET, Key=version["Key"], VersionId=version["VersionId"])


class Machine:
    """A worker in an empty folder."""

    def __init__(self, lane: Lane, name: str) -> None:
        self.name = name
        self._lane = lane
        self._folder = lane.folder / name
        self._folder.mkdir()
        settings = {
            **lane.s3.environment,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{lane.uplink.port}",
            "PYTHONPATH": str(ROOT),
            "KELPIE_API_URL": f"http://127.0.0.1:{lane.port}",
            "KELPIE_API_KEY": lane.key,
            "KELPIE_RUNTIME_DIR": str(self._folder / "run"),
            "SALAD_IMDS_URL": NO_METADATA_SERVICE,
            "SALAD_CONTAINER_GROUP_ID": lane.name,
            "SALAD_MACHINE_ID": name,
            "FILE_WATCHER_STABILITY_CHECK_MS": str(lane.size.stability),
            **{
                f"{kind.upper()}_DIR": str(self._folder / f"legacy-{kind}")
                for kind in ("input", "checkpoint", "output")
            },
        }
        self.worker = Child(
            "kelpie",
            [sys.executable, "-m", "kelpie_worker"],
            folder=self._folder,
            env={**os.environ, **settings},
            cwd=self._folder,
        )

    def said(self) -> str:
        """What its log says about the checkpoint that it found."""
        told = self.told("checkpoint_torn", "checkpoint_brought_back")
        return "; ".join(f"{event['event']} {event.get('detail', '')}".strip() for event in told)

    def commits(self) -> list[float]:
        """Seconds from the last byte of a generation to its last name, of each that was committed."""
        began, took = 0.0, []
        for event in self.told("checkpoint_prepared", "checkpoint_committed"):
            at = datetime.fromisoformat(event["time"]).timestamp()
            if event["event"] == "checkpoint_committed":
                took.append(at - began)
            began = at
        return took

    def told(self, *events: str) -> list[dict[str, Any]]:
        lines = self.worker.log.read_text().splitlines(keepends=True)
        told = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]
        return [event for event in told if event["event"] in events]

    def vanish(self, job: str) -> None:
        """End every process without notice, so that none can clean up, and lose the bytes in transit."""
        pids = [self.worker.pid, *descendants(self.worker.pid)]
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        self._lane.uplink.cut()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        self.worker.kill()
        wait_for(
            lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids[1:]), "the processes to be gone"
        )
        shutil.rmtree(self._folder)
        # Released for it, instead of waiting until its lease has lapsed.
        lane, shown = self._lane, self._lane.ask("GET", f"/jobs/{job}")
        holder = {name: shown[name] for name in ("machine_id", "attempt")}
        lane.ask("POST", f"/jobs/{job}/released", {**holder, "container_group_id": lane.name})


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def killed(size: Size, lanes: int, kinds: tuple[str, ...], seed: int) -> dict[str, list[Lane]]:
    with ExitStack() as stack:
        server_url = stack.enter_context(server())
        url = stack.enter_context(own_database(server_url))
        folder = stack.enter_context(scratch_folder())
        db = stack.enter_context(opened(url))
        key = make_tenant(db).key
        _, port = stack.enter_context(serve(url, folder))
        made: dict[str, list[Lane]] = {kind: [] for kind in kinds}
        for kind in kinds:
            for number in range(lanes):
                own = folder / f"s3-{kind}-{number}"
                own.mkdir()
                s3 = S3Server(own)
                s3.start()
                stack.callback(s3.stop)
                s3.create_bucket(BUCKET)
                if kind == "versions":
                    s3.keep_versions(BUCKET)
                uplink = Uplink(s3.port, size.uplink * MB)
                stack.callback(uplink.close)
                share = size.kills // lanes + (number < size.kills % lanes)
                chance = random.Random(f"{seed} {kind} {number}")
                lane = Lane(kind, number, size, share, port, key, folder, s3, uplink, chance)
                made[kind].append(lane)
        all_lanes = [lane for lanes_of_kind in made.values() for lane in lanes_of_kind]
        ended = threading.Event()
        threading.Thread(target=print_progress, args=(all_lanes, ended), daemon=True).start()
        with ThreadPoolExecutor(len(all_lanes)) as pool:
            for ran in [pool.submit(lane.run) for lane in all_lanes]:
                ran.result()
        ended.set()
        return made


def print_progress(lanes: list[Lane], ended: threading.Event) -> None:
    while not ended.wait(60):
        lives = [life for lane in lanes for life in lane.lives]
        found = Counter(f"{lane.kind}: {life['found']}, {life['status']}" for lane in lanes for life in lane.lives)
        click.echo(f"  {len(lives)} resumes so far: {dict(found)}", err=True)


def judge(goals: Goals, kind: str, lanes: list[Lane]) -> None:
    lives = [life for lane in lanes for life in lane.lives]
    bad = [life for life in lives if life["found"] != "whole"]
    hidden = [life for life in bad if life["status"] == "clean"]
    alarms = Counter(life["status"] for life in lives if life["found"] == "whole" and life["status"] != "clean")
    seconds = statistics.median(second for lane in lanes for second in lane.seconds)
    commit = statistics.mean(took for lane in lanes for took in lane.commits)
    name = KINDS[kind]
    found = ", ".join(f"{number} {what}" for what, number in Counter(life["found"] for life in lives).items())
    click.echo(f"{name}: {len(lives)} kills, resumes found: {found}; {seconds:.1f} s from kill to kill (median)")
    click.echo(f"  a commit took {commit:.2f} s (mean), {commit / lanes[0].size.period:.1%} of the period")
    for life in bad:
        click.echo(f"  {life['found']}, said to be {life['status']}: {life['detail']} ({life['worker_said']})")
    click.echo(f"  whole, and not said to be clean: {sum(alarms.values())} {dict(alarms) or ''}")
    goals.fact(f"{name}: said to be clean of what is torn or missing: {len(hidden)}", not hidden)
    share = len(bad) / len(lives)
    goals.figure(f"{name}: torn or missing {share:.1%}", share < GOALS[kind] or not bad)
    trained = max(life["step"] for life in lives)
    goals.figure(
        f"{name}: the job went on over its kills, to step {trained}", trained > len(lives) / len(lanes) / 4
    )


if __name__ == "__main__":
    main()
