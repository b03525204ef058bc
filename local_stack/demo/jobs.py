"""The three kinds of jobs of the demo: what is submitted, and where the results are stored."""

import os
import subprocess
import sys
from pathlib import Path

from local_stack.client import Job
from local_stack.processes import CHECKOUT
from local_stack.s3 import S3Server
from local_stack.stack import LocalStack

EXAMPLES = CHECKOUT / "examples"
BUCKET = "demo"

COUNT_TO = 400
SECONDS_PER_STEP = 0.1
EPOCHS = 40
SECONDS_PER_EPOCH = 1
BLOCKS = 120

HEARTBEAT_INTERVAL = 2  # seconds; an hour-long job would take 30

OUTPUTS = {name: f"{name}/output/" for name in ("counting", "digits", "montecarlo")}
DIGITS_CHECKPOINTS = "digits/checkpoints/"


def upload_inputs(s3: S3Server, digits: Path) -> None:
    """Create the bucket and upload the inputs, as a user would before submitting."""
    s3.create_bucket(BUCKET)
    s3.put(BUCKET, "counting/input/limit.txt", str(COUNT_TO).encode())
    for path in digits.iterdir():
        s3.put(BUCKET, f"digits/input/{path.name}", path.read_bytes())


def counting(group: str, webhook: str) -> Job:
    """A job in the legacy form: three directories that the script finds by environment variables."""
    locations = {
        f"{place}_{part}": BUCKET if part == "bucket" else f"counting/{place}/"
        for place in ("input", "checkpoint", "output")
        for part in ("bucket", "prefix")
    }
    return {
        "name": "counting",
        "command": sys.executable,
        "arguments": [str(EXAMPLES / "counting" / "count.py")],
        "environment": {"SECONDS_PER_STEP": str(SECONDS_PER_STEP)},
        "container_group_id": group,
        "heartbeat_interval": HEARTBEAT_INTERVAL,
        "webhook": webhook,
        **locations,
    }


def digits(group: str, webhook: str) -> Job:
    return {
        "name": "digits",
        "command": sys.executable,
        "arguments": [
            *(str(EXAMPLES / "digits" / "train.py"), "input", "checkpoints", "output"),
            *("--epochs", str(EPOCHS)),
        ],
        "environment": {"SECONDS_PER_EPOCH": str(SECONDS_PER_EPOCH)},
        "sync": {
            "before": [
                sync_block("digits/input/", "input", "download"),
                sync_block(DIGITS_CHECKPOINTS, "checkpoints", "download"),
            ],
            "during": [sync_block(DIGITS_CHECKPOINTS, "checkpoints", "upload")],
            "after": [sync_block(OUTPUTS["digits"], "output", "upload")],
        },
        "container_group_id": group,
        "heartbeat_interval": HEARTBEAT_INTERVAL,
        "webhook": webhook,
    }


def sync_block(prefix: str, local_path: str, direction: str) -> dict[str, str]:
    return {"bucket": BUCKET, "prefix": prefix, "local_path": local_path, "direction": direction}


def submit_montecarlo(stack: LocalStack, webhook: str) -> list[str]:
    """Submit the jobs with the example's own script, as its user would; returns their ids."""
    options = {
        "bucket": BUCKET,
        "prefix": OUTPUTS["montecarlo"],
        "blocks": BLOCKS,
        "group": stack.group,
        "webhook": webhook,
        "heartbeat-interval": HEARTBEAT_INTERVAL,
    }
    submitted = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "montecarlo" / "submit.py")),
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        env={**os.environ, "KELPIE_API_URL": stack.api_url, "KELPIE_API_KEY": stack.user_key},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return submitted.stdout.split()
