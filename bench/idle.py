"""What a worker uses of its machine: memory (PSS of all its processes) and processor time, idle and at work."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from bench.api import ROOT, serve
from bench.harness import GROUP, HELP, Goals, make_tenant, opened, own_database, server
from bench.turnaround import BUCKET, storage, submit
from kelpie_worker.system.linux import descendants
from local_stack.processes import Child, scratch_folder, wait_for
from local_stack.s3 import S3Server

IDLE, AT_WORK = 65.0, 120.0  # MiB
CPU = 0.5  # per cent of one core
START_UP = 8.0  # seconds that are not measured
SAMPLE_EVERY = 0.2  # seconds
TICKS = os.sysconf("SC_CLK_TCK")
# A checkpoint of a large file and of many small ones every second, so that one is always being uploaded.
COMMAND = """
while :; do
    head -c {large} /dev/urandom > checkpoint/.large; mv checkpoint/.large checkpoint/large
    head -c {all_small} /dev/urandom | split -b {each} -a 3 - checkpoint/small-
    sleep 1
done
"""
MB = 1_000_000
EACH_SMALL = 64_000  # bytes


@click.command(help=__doc__, context_settings=HELP)
@click.option("--binary", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The frozen worker.")
@click.option("--seconds", default=60, show_default=True, help="Of each measurement.")
@click.option("--small", is_flag=True, help="Two seconds each and small checkpoints, judging nothing.")
def main(binary: Path | None, seconds: float, small: bool) -> None:
    seconds, settling = (2.0, 1.0) if small else (seconds, START_UP)
    large, files = (16, 40) if small else (128, 400)
    goals = Goals(judged=not small)
    program = [str(binary.resolve())] if binary else [sys.executable, "-m", "kelpie_worker"]
    with (
        server() as server_url,
        own_database(server_url) as url,
        scratch_folder() as folder,
        opened(url) as db,
        serve(url, folder) as (_, port),
        storage(folder) as s3,
        empty_queue() as polled,
    ):
        key = make_tenant(db).key
        with worker(program, folder / "polling", polled, key, s3) as polling:
            judge_idle(goals, "polling", polling, settling, seconds)
        with worker(program, folder / "waiting", f"http://127.0.0.1:{port}", key, s3) as waiting:
            judge_idle(goals, "waiting", waiting, settling, seconds)
            during = [{"bucket": BUCKET, "prefix": "ck/", "local_path": "checkpoint", "direction": "upload"}]
            command = COMMAND.format(large=large * MB, all_small=files * EACH_SMALL, each=EACH_SMALL)
            submit(port, key, 1, {"during": during}, command)
            wait_for(lambda: "checkpoint_committed" in waiting.log.read_text(), "a checkpoint", timeout=60)
            most = at_most(waiting, seconds)
            goals.figure(
                f"at work: {most:.0f} MiB at most, checkpoints of {large} MB and {files} small files going up",
                most < AT_WORK,
            )
    sys.exit(goals.verdict())


def judge_idle(goals: Goals, how: str, kelpie: Child, settling: float, seconds: float) -> None:
    time.sleep(settling)
    before, began = processor_time(kelpie), time.monotonic()
    time.sleep(seconds)
    spent = 100 * (processor_time(kelpie) - before) / (time.monotonic() - began)
    memory = {pid: pss(pid) for pid in sorted(processes(kelpie))}
    names = {pid: name_of(pid) for pid in memory}
    each = ", ".join(f"{names[pid]} {amount:.1f}" for pid, amount in memory.items())
    total = sum(memory.values())
    goals.figure(f"idle, {how}: {total:.0f} MiB ({each})", total < IDLE)
    goals.figure(f"idle, {how}: {spent:.2f} % of a core", spent < CPU)


def at_most(kelpie: Child, seconds: float) -> float:
    """The most memory in MiB that was seen, without the command's."""
    deadline, most = time.monotonic() + seconds, 0.0
    while time.monotonic() < deadline:
        most = max(most, sum(map(pss, processes(kelpie))))
        time.sleep(SAMPLE_EVERY)
    return most


@contextmanager
def worker(program: list[str], folder: Path, url: str, key: str, s3: S3Server) -> Iterator[Child]:
    folder.mkdir()
    child = Child("kelpie", program, folder=folder, env=settings(folder, url, key, s3), cwd=folder)
    try:
        wait_for(lambda: child.log.read_text().count('"child_started"') == 3, "the worker to start", timeout=60)
        yield child
    finally:
        child.stop(timeout=40)


def settings(folder: Path, url: str, key: str, s3: S3Server) -> Mapping[str, str]:
    return {
        **os.environ,
        **s3.environment,
        "PYTHONPATH": str(ROOT),
        "KELPIE_API_URL": url,
        "KELPIE_API_KEY": key,
        "SALAD_CONTAINER_GROUP_ID": GROUP,
        "SALAD_MACHINE_ID": folder.name,
        "KELPIE_RUNTIME_DIR": str(folder / "run"),
        **{f"{name.upper()}_DIR": str(folder / f"legacy-{name}") for name in ("input", "checkpoint", "output")},
    }


@contextmanager
def empty_queue() -> Iterator[str]:
    """The original's API with an empty queue: it answers at once, and the worker polls every 10 s."""

    class Nothing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b"[]"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


# --- measurements from /proc ----------------------------------------------------------------------------


def processes(kelpie: Child) -> set[int]:
    """The ids of the worker's processes, without the command's."""
    ours = {kelpie.pid, *descendants(kelpie.pid)}
    return {pid for pid in ours if not is_commands(pid)}


def is_commands(pid: int) -> bool:
    with suppress(OSError):
        return b"KELPIE_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes()
    return True


def pss(pid: int) -> float:
    """The PSS of a process in MiB: shared pages are divided among the processes that share them."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def name_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "?"


def processor_time(kelpie: Child) -> float:
    """Seconds of processor time that the living processes have used so far."""
    spent = 0
    for pid in processes(kelpie):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            spent += int(fields[11]) + int(fields[12])
    return spent / TICKS


if __name__ == "__main__":
    main()
