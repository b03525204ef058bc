"""The two runs of a rehearsal, with real workers, a bucket, and machines that are killed with their disks."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local_stack.processes import Child, kill_all_in, wait_for
from local_stack.rehearsal.judgement import Names, Report, Run, judge, judge_reference, judge_restart
from local_stack.rehearsal.record import Attempt, Record
from local_stack.stack import LocalStack, Worker, own_environment

RECORDER = Path(__file__).with_name("recorder.py")
BUCKET = "rehearsal"
HEARTBEAT_INTERVAL = 1  # seconds; a lost machine is noticed after two
ASKED_EVERY = 0.1  # seconds: how often the coordinator is asked for the newest checkpoint
LONG = 7 * 86400.0  # seconds; a run may take as long as it takes
MOST_BYTES = 2 << 30  # of the working directory, which is copied to each machine
LEFT_OUT = (".git", ".venv", "venv", "node_modules", "__pycache__", ".cache")
OWN_FILES = ("kelpie-state.json",)
NOTHING_SHOWN = (
    "Nothing was shown: it had ended before a checkpoint of it was in the bucket, so that no kill could be"
    " survived. Rehearse more work (half a minute), or have it save earlier and close what it saved: a file that"
    " stays open waits for a minute."
)
FINAL = ("completed", "failed", "canceled")


class RehearsalError(Exception):
    """A rehearsal that makes no sense, or that this machine cannot do; the text is one sentence."""


@dataclass(frozen=True)
class Plan:
    """What is rehearsed. `folder` is what the image brings: it is copied to each machine."""

    command: Sequence[str]
    checkpoint: str = "checkpoint"
    output: str = "output"
    kills: int = 3
    compare: str | None = None
    folder: Path | None = None

    def check(self) -> None:
        """Raise RehearsalError for directories that are not lost with the machine."""
        for name in (self.checkpoint, self.output):
            path = Path(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise RehearsalError(
                    f"The directory {name!r} must be a relative one, so that it is lost with the machine's disk;"
                    " the command finds it in CHECKPOINT_DIR or OUTPUT_DIR, too."
                )
        if Path(self.checkpoint) == Path(self.output):
            raise RehearsalError("Checkpoints and outputs need a directory each.")


class Rehearsal:
    """One command, run twice in `root`. A `stack` that is given is used and left running."""

    def __init__(
        self,
        plan: Plan,
        root: Path,
        *,
        stack: LocalStack | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
        seed: int | None = None,
    ) -> None:
        plan.check()
        self.plan = plan
        self.root = root
        self.tell = tell
        self.names = Names(plan.checkpoint, plan.output)
        self.random = random.Random(seed)
        self._stack = stack

    def run(self) -> Report:
        """Both runs and what they show. Raises RehearsalError."""
        with ExitStack() as ending:
            stack = self._stack or ending.enter_context(LocalStack(self.root))
            if self._stack is None:
                stack.s3.create_bucket(BUCKET)
            self.tell("Running it to its end, with no kill ...")
            reference = Job(self, stack, "reference")
            first = reference.to_its_end()
            if report := judge_reference(first, self.names):
                return report
            if any(attempt.in_place for attempt in first.attempts):
                self.tell("Killing it in the middle of rewriting a checkpoint in place; its disk stays ...")
                restarted = restart_after_half_a_write(self.plan, self.root)
                if report := judge_restart(first, restarted, self.compared(first, restarted)):
                    return report
            self.tell(f"It took {first.seconds:.1f} s. Running it again, and killing ...")
            rehearsed = Job(self, stack, "rehearsed")
            missed = Kills(rehearsed, first, self.tell).run()
            second = rehearsed.to_its_end()
            if not rehearsed.record.kills:
                raise RehearsalError(NOTHING_SHOWN)
            return judge(first, second, self.names, self.compared(first, second), missed)

    def compared(self, one: Run, other: Run) -> bool | None:
        """Whether the user's own command finds the outputs alike: its exit code is 0. None without one."""
        if not self.plan.compare or not other.completed:
            return None
        places = {"a": self.root / "a", "b": self.root / "b"}
        for place, run in zip(places.values(), (one, other), strict=True):
            shutil.rmtree(place, ignore_errors=True)
            for name, content in run.files.items():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        words = shlex.split(str(self.plan.compare))
        for name, place in places.items():
            words = [word.replace(f"{{{name}}}", str(place)) for word in words]
        try:
            return subprocess.run(words, cwd=self.plan.folder, stdout=sys.stderr).returncode == 0
        except OSError as error:
            raise RehearsalError(f"The command of --compare cannot run: {error.strerror}: {words[0]}") from error


def write_plan(file: Path, plan: Plan, record: Record, freeze: bool) -> None:
    """What a recorder is to do."""
    said = {
        "command": list(plan.command),
        "checkpoint": plan.checkpoint,
        "output": plan.output,
        "record": str(record.file),
        "freeze": freeze,
        "python_path": os.environ.get("PYTHONPATH", ""),
    }
    file.write_text(json.dumps(said))


def restart_after_half_a_write(plan: Plan, root: Path) -> Run:
    """Kill the command in the middle of a rewrite, and run it again on the same disk, as a worker does that was
    restarted."""
    disk, file, record = root / "restarted", root / "restarted.json", Record(root / "restarted.jsonl")
    copy_image(plan, disk)
    for freeze in (True, False):
        write_plan(file, plan, record, freeze)
        child = Child(
            "restarted.run",
            [sys.executable, "-I", RECORDER, file],
            folder=root,
            cwd=disk,
            env={**own_environment(), "INPUT_DIR": str(disk / "input")},
        )
        wait_for(partial(stopped, child, record), "it to end", LONG, pause=0.02)
        child.kill()
        record.kills.append(time.time())
        kill_all_in(disk)
    attempts = record.attempts()
    return Run(
        attempts=attempts,
        completed=attempts[-1].code == 0,
        files={name: (disk / plan.output / name).read_bytes() for name in files_in(disk / plan.output)},
        tail=tail_of(root / "restarted.run.out", root / "restarted.run.log"),
    )


def stopped(child: Child, record: Record) -> bool:
    """Whether the newest attempt has ended, or is stopped in the middle of a write."""
    found = record.attempts()
    return not child.alive or bool(found and found[-1].frozen)


class Job:
    """One of the two jobs, with a machine of its own at a time."""

    def __init__(self, rehearsal: Rehearsal, stack: LocalStack, name: str) -> None:
        self.plan = rehearsal.plan
        self.random = rehearsal.random
        self.stack = stack
        self._root = rehearsal.root
        self._name = f"{rehearsal.root.name}-{name}"
        self._machines = 0
        self._before: set[str] = set()
        self.record = Record(rehearsal.root / f"{name}.jsonl")
        self._plan_file = rehearsal.root / f"{name}.json"
        write_plan(self._plan_file, self.plan, self.record, freeze=False)
        self.id = str(self.stack.client.submit(self._definition())["id"])
        self.worker = self.new_machine()

    def _definition(self) -> dict[str, object]:
        def block(place: str, path: str, direction: str) -> dict[str, str]:
            return {"bucket": BUCKET, "prefix": self.prefix(place), "local_path": path, "direction": direction}

        checkpoint, output = self.plan.checkpoint, self.plan.output
        return {
            "command": sys.executable,
            "arguments": ["-I", str(RECORDER), str(self._plan_file)],
            "container_group_id": self._name,
            "heartbeat_interval": HEARTBEAT_INTERVAL,
            "max_failures": 1,
            "sync": {
                "before": [block("checkpoint", checkpoint, "download")],
                "during": [block("checkpoint", checkpoint, "upload")],
                "after": [block("output", output, "upload")],
            },
        }

    def prefix(self, place: str) -> str:
        return f"{self._name}/{place}/"

    def new_machine(self) -> Worker:
        """A machine with what the image brings on its disk."""
        self._machines += 1
        name = f"{self._name}-{self._machines}"
        disk = self.stack.root / name
        copy_image(self.plan, disk)
        self._before = files_in(disk)
        return self.stack.start_worker(name, {"SALAD_CONTAINER_GROUP_ID": self._name})

    @property
    def over(self) -> bool:
        return self.stack.client.job(self.id)["status"] in FINAL

    def attempt(self, number: int) -> Attempt | None:
        """The start of the command with this number, from 1, once it happened."""
        found = self.record.attempts()
        return found[number - 1] if len(found) >= number else None

    def saved(self) -> str | None:
        """Of the newest checkpoint that is whole in the bucket: when it was. Empty files alone are none yet."""
        found = self.stack.client.job(self.id).get("checkpoint") or {}
        return str(found["at"]) if found.get("bytes") else None

    def has_several_objects(self) -> bool:
        """Whether a checkpoint can be in the bucket in part."""
        return len(self.stack.s3.keys(BUCKET, self.prefix("checkpoint"))) > 1

    def crash(self) -> None:
        """Kill the machine; its disk stays."""
        self.worker.crash()
        self.record.kills.append(time.time())

    def lose_disk(self) -> None:
        """After a crash: the disk is gone, and another machine comes."""
        self.worker.vanish()
        self.worker = self.new_machine()

    def to_its_end(self) -> Run:
        """Wait until the job is final, and gather what there is."""
        wait_for(lambda: self.over, "the job to end", LONG, pause=0.2)
        strays = sorted(files_in(self.worker.disk) - self._before - set(OWN_FILES))
        dirs = (f"{self.plan.checkpoint}/", f"{self.plan.output}/")
        run = Run(
            attempts=self.record.attempts(),
            completed=self.stack.client.job(self.id)["status"] == "completed",
            files=self.stack.s3.files(BUCKET, self.prefix("output")),
            strays=[name for name in strays if not name.startswith((*dirs, ".kelpie", "kelpie-state"))],
            tail=tail_of(self.worker.output, self.worker.log),
        )
        self.worker.vanish()
        return run


class Kills:
    """Loses the machines of a job: in the middle of an upload, and at random moments."""

    def __init__(self, job: Job, reference: Run, tell: Callable[[str], None]) -> None:
        self.job = job
        self.whole = reference.seconds
        self.tell = tell
        self._starts = 1
        self._missed: list[str] = []

    def run(self) -> list[str]:
        """Kill; returns sentences about the kills that could not be made."""
        self.in_the_middle_of_an_upload()
        for number in range(self.job.plan.kills):
            self.at_a_random_moment(number)
        return self._missed

    def at_a_random_moment(self, number: int) -> None:
        """A part of the work is given to each kill, so that none is left without work to interrupt."""
        part = self.whole / (self.job.plan.kills + 2)
        begun = self.begun()
        seen = self.job.saved()
        moment = begun + self.job.random.uniform(0.3, 1.0) * part if begun else 0.0
        saved = self.until(lambda: time.time() >= moment and self.job.saved() != seen, ASKED_EVERY)
        if not saved:
            self._missed.append(f"It had ended before kill {number + 1} of {self.job.plan.kills}.")
            return
        self.tell(f"Kill {number + 1} of {self.job.plan.kills}: the machine and its disk are lost")
        self.job.crash()
        self.job.lose_disk()
        self._starts += 1

    def in_the_middle_of_an_upload(self) -> None:
        """A checkpoint is on its way, and some of its files may be there, when machine and disk are lost."""
        self.begun()
        if not self.until(lambda: self.job.saved() is not None, ASKED_EVERY):
            self._missed.append("No kill hit the middle of an upload: it had ended before.")
            return
        some = 1 if self.job.has_several_objects() else 0
        with self.job.stack.s3.hold(BUCKET, self.job.prefix("checkpoint"), first=some) as held:
            if not self.until(held.exists):
                self._missed.append("No kill hit the middle of an upload: it had ended before.")
                return
            self.tell("Kill in the middle of a checkpoint's upload: the machine and its disk are lost")
            self.job.crash()
        self.job.lose_disk()
        self._starts += 1

    def begun(self) -> float | None:
        """When the command started that is running now; None if the job has ended."""
        if self.until(lambda: self.job.attempt(self._starts) is not None):
            attempt = self.job.attempt(self._starts)
            return attempt.started if attempt else None
        return None

    def until(self, fact: Callable[[], bool], pause: float = 0.02) -> bool:
        """Wait for a fact; False if the job ended before it."""
        looked = 0.0
        while not fact():
            if time.monotonic() - looked > 0.5:
                if self.job.over:
                    return False
                looked = time.monotonic()
            time.sleep(pause)
        return True


def copy_image(plan: Plan, disk: Path) -> None:
    """The working directory on a machine's disk, without checkpoints and outputs of earlier runs.

    Raises RehearsalError if it is huge.
    """
    disk.mkdir()
    if plan.folder is None:
        return
    left_out = {*LEFT_OUT, plan.checkpoint, plan.output}
    entries = [path for path in plan.folder.iterdir() if path.name not in left_out]
    size = sum(file.lstat().st_size for entry in entries for file in [entry, *entry.rglob("*")])
    if size > MOST_BYTES:
        raise RehearsalError(
            f"The directory {plan.folder} has {size >> 30} GiB and would be copied to each machine; rehearse in"
            " one that holds the program alone."
        )
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, disk / entry.name, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        elif entry.is_file() or entry.is_symlink():
            shutil.copy2(entry, disk / entry.name, follow_symlinks=False)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def tail_of(*files: Path, lines: int = 10) -> str:
    """The end of what the command printed; its worker's log lines, which are JSON, are left out."""
    found = [line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()]
    return "\n".join([line for line in found if not line.startswith("{")][-lines:])
