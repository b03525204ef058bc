"""Runs a command in its worker's place and records what it does with its checkpoint directory.

    python -I recorder.py PLAN.json

The plan names the command, its directories, and the record: a file of JSON lines, each with the time of its event.
With `freeze` the command is stopped (SIGSTOP) in the middle of rewriting a file in place, so that it can be killed
at that moment. Standard library and Linux's inotify only.
"""

import ctypes
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ACCESS, MODIFY, CLOSE_WRITE, CLOSE_READ = 0x1, 0x2, 0x8, 0x10
MOVED_IN, CREATE, DIRECTORY = 0x80, 0x100, 0x40000000
WATCHED = ACCESS | MODIFY | CLOSE_WRITE | CLOSE_READ | MOVED_IN | CREATE
EVENT = struct.Struct("iIII")


class Watch:
    """Events of the files below a directory, as they happen."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, Path] = {}
        self._add(folder)

    def _add(self, folder: Path) -> None:
        number = self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), WATCHED)
        if number < 0:
            return  # it is gone already
        self._folders[number] = folder
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                self._add(path)

    def events(self) -> list[tuple[int, Path]]:
        """What happened since the last call, as kinds and files. New directories are watched from now on."""
        try:
            raw = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return []
        found = []
        at = 0
        while at < len(raw):
            number, kind, _, length = EVENT.unpack_from(raw, at)
            name = raw[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
            at += EVENT.size + length
            path = self._folders.get(number, Path()) / os.fsdecode(name)
            if kind & DIRECTORY and kind & (CREATE | MOVED_IN) and path.is_dir():
                self._add(path)
            if name and (not kind & DIRECTORY or kind & MOVED_IN):
                found.append((kind, path))
        return found


class Recorder:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._checkpoint = Path(plan["checkpoint"]).absolute()
        self._freezes = bool(plan["freeze"])
        self._record = Path(plan["record"]).open("a", buffering=1)  # noqa: SIM115 - until the end
        self._checkpoint.mkdir(parents=True, exist_ok=True)
        self._sizes = {path: path.stat().st_size for path in self._files()}
        self._unread = {path for path, size in self._sizes.items() if size}  # of an empty one nothing is read
        self._created: set[Path] = set()  # and not closed since: such a file is written, not rewritten
        self._frozen = False
        self.note("start", restored=len(self._unread), status=os.environ.get("KELPIE_CHECKPOINT_STATUS"))

    def note(self, event: str, **facts: Any) -> None:
        self._record.write(json.dumps({"event": event, "at": time.time(), **facts}) + "\n")

    def watch(self, command: subprocess.Popen[bytes], watch: Watch) -> int:
        """The command's exit code, once all of its events are recorded."""
        while True:
            ended = command.poll() is not None
            select.select([watch.descriptor], [], [], 0 if ended else 0.05)
            events = watch.events()
            for kind, path in events:
                self._see(kind, path)
            if ended and not events:
                return command.wait()

    def _see(self, kind: int, path: Path) -> None:
        name = str(path.relative_to(self._checkpoint))
        if kind & (ACCESS | CLOSE_READ) and path in self._unread:
            self._unread.remove(path)
            self.note("read", name=name)
        if kind & (MODIFY | CLOSE_WRITE | MOVED_IN | CREATE):
            self._changed(kind, path, name)

    def _changed(self, kind: int, path: Path, name: str) -> None:
        try:
            size = path.stat().st_size
        except OSError:
            return  # renamed or removed meanwhile
        before = self._sizes.get(path, 0)
        self._sizes[path] = size
        self._unread.discard(path)
        if kind & CREATE:
            self._created.add(path)
        if kind & MODIFY and path not in self._created and (size < before or size == before > 0):
            self._freeze(path, name)
            self.note("in_place", name=name)
        if kind & CLOSE_WRITE:
            self._created.discard(path)
        self.note("write", name=name)

    def _freeze(self, path: Path, name: str) -> None:
        """Stop the command in the middle of a write; what kills the machine waits for this.

        Where the event came late the write is over, and the command goes on until its next one.
        """
        if self._frozen or not self._freezes:
            return
        members = group_members()
        for pid in members:
            send(pid, signal.SIGSTOP)
        if any(is_stopped(pid) and writes_to(pid, path) for pid in members):
            self._frozen = True
            self.note("frozen", name=name)
            return
        for pid in members:
            send(pid, signal.SIGCONT)

    def _files(self) -> list[Path]:
        return [path for path in self._checkpoint.rglob("*") if path.is_file()]


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(pid, number)


def is_stopped(pid: int) -> bool:
    """Wait until the process does nothing any more; False if it ended."""
    while True:
        try:
            state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "TtZX":
            return state in "Tt"
        time.sleep(0.001)


def writes_to(pid: int, path: Path) -> bool:
    """Whether the process has the file open for writing."""
    try:
        entries = list((Path("/proc") / str(pid) / "fd").iterdir())
    except OSError:
        return False  # it was killed meanwhile
    return any(is_writer(entry, path) for entry in entries)


def is_writer(descriptor: Path, path: Path) -> bool:
    """Whether a process's descriptor, as /proc names it, is of this file and for writing."""
    try:
        said = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text()
        flags = int(said.split("flags:")[1].split()[0], 8)
        return flags & os.O_ACCMODE != os.O_RDONLY and descriptor.samefile(path)
    except OSError:
        return False  # a pipe, or closed meanwhile


def group_members() -> list[int]:
    """The other processes of this process group: the command and what it started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[2]) == os.getpgrp() and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the command, which is in the same group
    output = Path(plan["output"]).absolute()
    output.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(plan)
    watch = Watch(Path(plan["checkpoint"]).absolute())
    folders = {"CHECKPOINT_DIR": str(Path(plan["checkpoint"]).absolute()), "OUTPUT_DIR": str(output)}
    environment = {**os.environ, **folders}
    environment.pop("PYTHONPATH", None)  # the worker's
    environment |= {"PYTHONPATH": plan["python_path"]} if plan["python_path"] else {}
    try:
        command = subprocess.Popen(plan["command"], env=environment, preexec_fn=heed_signals)
    except OSError as error:
        print(f"{plan['command'][0]}: {error.strerror}", file=sys.stderr)
        return 127
    code = recorder.watch(command, watch)
    recorder.note("end", code=code)
    return code if code >= 0 else 128 - code


def heed_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
