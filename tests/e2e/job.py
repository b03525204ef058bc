"""A job whose output depends on its input and on every step in order, and which can be stopped at any step.

Usage: job.py STEPS PAUSE FILES HURRY. PAUSE is the seconds of each step, for as long as there is no file HURRY.
`in/data` is the input, `checkpoint/state` the checkpoint, `out/result` the output.
FILES empty files are made beside the input, so that wiping takes a while; then it ends once there is a file HURRY.
"""

import hashlib
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
    done, digest = state.read_text().split()
    return int(done), digest


first, digest = resumed()
print(f"resumed from step {first} of {steps}", flush=True)
for step in range(first, steps):
    digest = hashlib.sha256(f"{digest} {step}".encode()).hexdigest()
    draft = checkpoint / "state.tmp"
    draft.write_text(f"{step + 1} {digest}")
    draft.rename(state)
    time.sleep(0 if hurry.exists() else pause)
for number in range(files):
    Path(f"in/{number}").touch()
while files and not hurry.exists():
    time.sleep(0.05)
Path("out").mkdir(exist_ok=True)
Path("out/result").write_text(digest)
