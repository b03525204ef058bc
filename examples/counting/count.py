"""Count to the number in INPUT_DIR/limit.txt, or the one of the command line, one link of a hash chain per number.

The chain makes every step matter: an output with the right digest cannot come from a run that skipped or
repeated one. Progress is saved in CHECKPOINT_DIR/count.json, and told in the file that KELPIE_PROGRESS names.
The result goes to OUTPUT_DIR/counted.json. SECONDS_PER_STEP (default 0) slows the counting down. Standard
library only.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

STEPS_PER_CHECKPOINT = 10

INPUT = Path(os.environ.get("INPUT_DIR", "/input")) / "limit.txt"
CHECKPOINT = Path(os.environ.get("CHECKPOINT_DIR", "/checkpoint")) / "count.json"
OUTPUT = Path(os.environ.get("OUTPUT_DIR", "/output")) / "counted.json"
PROGRESS = os.environ.get("KELPIE_PROGRESS")
SECONDS_PER_STEP = float(os.environ.get("SECONDS_PER_STEP", "0"))


def write_whole(path: Path, progress: dict[str, object]) -> None:
    """By temporary file and rename: a reader sees the old content or the new, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(progress))
    draft.replace(path)


def saved_progress() -> tuple[int, str]:
    """The number counted to and the chain's digest so far. Ends the program if the checkpoint is damaged."""
    if not CHECKPOINT.exists():
        return 0, ""
    try:
        progress = json.loads(CHECKPOINT.read_text())
        return int(progress["number"]), str(progress["digest"])
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"counting: {CHECKPOINT} is damaged ({error}); not starting over. Delete it to count from 1.")


def tell_progress(number: int, limit: int) -> None:
    if PROGRESS:
        write_whole(Path(PROGRESS), {"step": number, "total": limit})


def count(limit: int) -> str:
    number, digest = saved_progress()
    print(f"counting: resumed from step {number} of {limit}" if number else "counting: starts", flush=True)
    tell_progress(number, limit)
    while number < limit:
        number += 1
        digest = hashlib.sha256(f"{digest}{number}".encode()).hexdigest()
        if number % STEPS_PER_CHECKPOINT == 0:
            write_whole(CHECKPOINT, {"number": number, "digest": digest})
            tell_progress(number, limit)
            print(f"counting: step {number} of {limit}", flush=True)
        time.sleep(SECONDS_PER_STEP)
    return digest


if __name__ == "__main__":
    limit = int(sys.argv[1] if sys.argv[1:] else INPUT.read_text())
    write_whole(OUTPUT, {"counted_to": limit, "digest": count(limit)})
    print(f"counting: counted to {limit}", flush=True)
