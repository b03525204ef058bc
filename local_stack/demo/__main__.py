"""The demo: a whole Kelpie on this machine, three kinds of jobs, five kills, and no byte of output lost.

    scripts/demo [--keep]

Exit code 0 only if every job is completed, none failed, and every output equals that of an uninterrupted run.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from local_stack.demo import jobs
from local_stack.demo.job_watcher import FollowedBatch, FollowedJob, JobWatcher
from local_stack.demo.outages import Outages
from local_stack.demo.receiver import WebhookReceiver
from local_stack.demo.report import Result, result_of_batch, result_of_job, table
from local_stack.processes import Child, processes_in, scratch_folder
from local_stack.stack import LocalStack, own_environment

UPLOAD_RATE = 800_000  # bytes per second and file, like a slow connection at home
PRICE_PER_HOUR = 3.6  # of a machine
WEBHOOK_PATIENCE = 120  # seconds; retries are seconds apart at first
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


def python(name: str, *arguments: str | Path, folder: Path) -> Child:
    return Child(name, [sys.executable, *arguments], folder=folder, env=own_environment())


def finish(child: Child) -> None:
    if child.wait(timeout=180) != 0:
        raise RuntimeError(f"{child.name} failed:\n{child.log_tail()}")


def perform(root: Path, keep: bool) -> bool:
    """Run the whole demo; returns whether every result is right."""
    print("Starting Postgres, an S3 server, the API, the webhook sender and two workers ...", flush=True)
    reference = root / "reference"
    prepared = python("prepare", jobs.EXAMPLES / "digits" / "prepare.py", reference / "digits/input", folder=root)
    with LocalStack(root, upload_rate=UPLOAD_RATE) as stack, WebhookReceiver() as receiver:
        finish(prepared)
        jobs.upload_inputs(stack.s3, reference / "digits" / "input")
        undisturbed = python("reference", "-m", "local_stack.demo.reference", reference, folder=root)
        watcher = JobWatcher(stack)
        watcher.tell("stack", f"is up: API {stack.api_url}, S3 {stack.s3.url}, logs in {root}")
        stack.client.set_price(stack.group, PRICE_PER_HOUR)
        outages = Outages(stack, watcher)
        long_jobs, batch = submit(outages, receiver.url)
        outages.run()
        wait_for_webhooks(watcher, receiver, len(long_jobs) + len(batch.ids))
        finish(undisturbed)
        results = [result_of_job(stack, job, reference) for job in long_jobs]
        results.append(result_of_batch(stack, batch, reference))
        all_is_well = conclude(stack, results, receiver)
        if keep:
            keep_running(stack, long_jobs[0])
    return all_is_well


def submit(outages: Outages, webhook: str) -> tuple[list[FollowedJob], FollowedBatch]:
    stack, watcher = outages.stack, outages.watcher
    long_jobs = [
        watcher.follow("counting", stack.client.submit(jobs.counting(stack.group, webhook))),
        watcher.follow("digits", stack.client.submit(jobs.digits(stack.group, webhook))),
    ]
    batch = watcher.follow_batch("montecarlo", jobs.submit_montecarlo(stack, webhook))
    watcher.tell(
        "user", f"submits counting (to {jobs.COUNT_TO}), digits ({jobs.EPOCHS} epochs), montecarlo x {jobs.BLOCKS}"
    )
    for _ in range(2):
        watcher.tell("fleet", f"{outages.new_machine().machine_id} comes with an empty disk")
    return long_jobs, batch


def wait_for_webhooks(watcher: JobWatcher, receiver: WebhookReceiver, completed: int) -> None:
    watcher.until(
        lambda: receiver.count("completed") == completed, f"{completed} webhooks `completed`", WEBHOOK_PATIENCE
    )


def conclude(stack: LocalStack, results: list[Result], receiver: WebhookReceiver) -> bool:
    print(f"\n{table(results)}\n")
    print(f"webhooks received: {receiver.total()}, of them `completed` for {receiver.count('completed')} jobs")
    print_usage(stack)
    print_results(stack.root, results)
    all_is_well = all(result.is_right for result in results)
    print("Not a byte was lost." if all_is_well else "SOMETHING IS WRONG: see the table.", flush=True)
    return all_is_well


def print_usage(stack: LocalStack) -> None:
    """Print what it cost, by the API."""
    total = stack.client.usage()["total"]
    print(
        f"usage: machines held jobs for {total['held']:.1f} s, of which {total['useful']:.1f} s were useful and"
        f" {total['lost']['interrupted']:.1f} s lost in {total['interruptions']} interruptions;"
        f" at {PRICE_PER_HOUR:g} an hour that is {total['money']:.2f}"
    )


def print_results(root: Path, results: list[Result]) -> None:
    """Print what the jobs computed, read from their outputs in the bucket."""
    outputs = {result.name: result.output for result in results}
    metrics = json.loads(outputs["digits"].get("metrics.json", b'{"accuracy": 0}'))
    print(f"digits: {metrics['accuracy']:.1%} of the unseen digits are read correctly")
    blocks = root / "blocks"
    blocks.mkdir()
    for name, content in outputs["montecarlo"].items():
        (blocks / name).write_bytes(content)
    gather = [sys.executable, str(jobs.EXAMPLES / "montecarlo" / "gather.py"), str(blocks)]
    print("montecarlo:", subprocess.run(gather, capture_output=True, text=True).stdout, end="")


def keep_running(stack: LocalStack, job: FollowedJob) -> None:
    header = f"-H 'X-Kelpie-Key: {stack.user_key}'"
    new_job = json.dumps({"command": "echo", "arguments": ["hello"], "container_group_id": stack.group})
    print(
        f"\nStill running, until Ctrl-C.\n"
        f"  API        {stack.api_url}\n"
        f"  user key   {stack.user_key}\n"
        f"  admin key  {stack.admin_key}\n"
        f"  logs       {stack.root}\n\n"
        f"  curl {header} {stack.api_url}/jobs/{job.id}/attempts\n"
        f"  curl {header} '{stack.api_url}/jobs?page_size=3'\n"
        f"  curl {header} {stack.api_url}/jobs -d '{new_job}'",
        flush=True,
    )
    while True:
        time.sleep(3600)


def interrupt(*_: object) -> None:
    """SIGTERM and SIGHUP end the demo like Ctrl-C. During the clean-up further signals are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def show_logs(root: Path) -> None:
    for log in sorted(root.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        print(f"\n--- the end of {log.name}", *lines[-15:], sep="\n", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    keep = parser.parse_args().keep
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    with scratch_folder() as root:
        try:
            all_is_well = perform(root, keep)
        except KeyboardInterrupt:
            print("\nInterrupted; everything is stopped and removed.", flush=True)
            return INTERRUPTED
        except BaseException:
            show_logs(root)  # before the folder is removed
            raise
        left_over = processes_in(root)
        print(f"Everything is stopped and removed; processes left over: {len(left_over)}.", flush=True)
    return 0 if all_is_well and not left_over else 1


if __name__ == "__main__":
    sys.exit(main())
