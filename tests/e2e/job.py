"""A job whose output depends on its input and on every step in order, and which can be stopped at any step.

Usage: job.py STEPS PAUSE FILES HURRY. PAUSE is the seconds of each step, for as long as there is no file HURRY. It
ends once there is one. `in/data` is the input, `checkpoint/state` the checkpoint, `out/result` the output.
FILES empty files are made beside the input, if it has time, so that wiping takes a while; without any it saves its
last step again and again until it may end, so that there is always a checkpoint to come.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

steps, pause, files, hurry = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
checkpoint = Path("checkpoint")
checkpoint.mkdir(exist_ok=True)
state = checkpoint / "state"


def resumed() -> tuple[int, str]:
    if not state.exists():
        return 0, hashlib.sha256(Path("in/data").read_bytes()).hexdigest()
    done, digest, *_ = state.read_text().split()
    return int(done), digest


def save(*values: object) -> None:
    draft = checkpoint / "state.tmp"
    draft.write_text(" ".join(map(str, values)))
    draft.rename(state)
    time.sleep(0 if hurry.exists() else pause)


first, digest = resumed()
print(f"resumed from step {first} of {steps}", flush=True)
for step in range(first, steps):
    digest = hashlib.sha256(f"{digest} {step}".encode()).hexdigest()
    save(step + 1, digest)
for number in range(0 if hurry.exists() else files):
    os.mknod(f"in/{number}")
again = 0
while not hurry.exists():
    again += 1
    if files:
        time.sleep(0.05)
    else:
        save(steps, digest, again)
Path("out").mkdir(exist_ok=True)
Path("out/result").write_text(digest)
