"""Submit a Monte Carlo estimate as one batch of short jobs.

    python submit.py --bucket BUCKET --blocks 300 [--group CONTAINER_GROUP_ID] [--webhook URL]

KELPIE_API_URL and KELPIE_API_KEY name the API and the user's key. Prints the id of each job. Standard library
only.
"""

import argparse
import json
import os
import sys
import urllib.request
from pathlib import Path

SIMULATE = Path(__file__).resolve().with_name("simulate.py")  # where the script lies in the container
JOBS_PER_BATCH = 1000


def job(block: int, options: argparse.Namespace) -> dict[str, object]:
    upload = {
        "bucket": options.bucket,
        "prefix": options.prefix,
        "local_path": "blocks",
        "direction": "upload",
    }
    return {
        "name": "montecarlo",
        "command": options.python,
        "arguments": [str(SIMULATE), "blocks", str(block)],
        "sync": {"after": [upload]},
        "container_group_id": options.group,
        "webhook": options.webhook,
        "heartbeat_interval": options.heartbeat_interval,
    }


def submit(jobs: list[dict[str, object]]) -> list[str]:
    """The ids, in the order of the jobs. Nothing is submitted if the server refuses one of them."""
    request = urllib.request.Request(
        f"{os.environ['KELPIE_API_URL']}/jobs/batch",
        data=json.dumps(jobs).encode(),
        headers={"X-Kelpie-Key": os.environ["KELPIE_API_KEY"], "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [accepted["id"] for accepted in json.load(answer)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Submit a Monte Carlo estimate as one batch of short jobs.")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", default="outputs/montecarlo/")
    parser.add_argument("--blocks", type=int, default=300)
    parser.add_argument("--group", help="container group id; without it any group of yours may run the jobs")
    parser.add_argument("--webhook")
    parser.add_argument("--heartbeat-interval", type=int, default=30, help="seconds")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    if options.blocks > JOBS_PER_BATCH:
        parser.error(f"a batch has at most {JOBS_PER_BATCH} jobs")
    print("\n".join(submit([job(block, options) for block in range(options.blocks)])))
