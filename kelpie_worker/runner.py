"""The child that runs the command, in a session of its own, and ends it with everything it started."""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.bundle import is_frozen, without_bundle
from kelpie_worker.child import Duty, Tell, live
from kelpie_worker.config import Config
from kelpie_worker.job import Job
from kelpie_worker.linux import (
    about,
    adopt_orphans,
    boottime,
    descendants,
    die_with,
    oom_kills,
    process_ids,
    wake_on_child_ends,
)
from kelpie_worker.messages import Exited, Refused, Run, Started, Stop, Troubled
from kelpie_worker.tail import Tail, secrets_of

CANCEL_GRACE = 5.0  # seconds between SIGINT, SIGTERM and SIGKILL
_LOOK_AGAIN = 0.05  # seconds, where nothing tells of an end: of a whole group, say
_LONGEST_CLEANUP = 1.0  # seconds; a process that the kernel cannot end now (its disk is away) is not waited for
_OUT_OF_RESOURCES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
_NOT_FOUND = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)


def main(commands: Connection, messages: Connection, config: Config) -> None:
    # Not die_with, and out of the worker's process group: whoever kills the supervisor, or all of its group,
    # leaves this process the time to end the command. The end of `commands` tells it.
    os.setsid()
    adopt_orphans()
    end_leftovers(config.state_file)
    live(commands, messages, config, lambda tell: Runner(config, tell))


class Runner(Duty):
    """At most one command at a time."""

    def __init__(self, config: Config, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._command: RunningCommand | None = None
        self._tail: Tail | None = None
        self._child_ended = wake_on_child_ends()

    def obey(self, command: Run | Stop) -> None:
        match command:
            case Run():
                if self._command is None:
                    self._run(command.job)
            case Stop():
                if self._command is None or self._command.claim_id != command.claim_id:
                    self._tell(Exited(command.claim_id, signalled=True))  # it ended with an earlier runner
                else:
                    self._command.stop(self._escalation(command.shutdown))

    def tick(self) -> float | None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._child_ended, 4096)
        ended = dict(_reaped())  # the orphans of a command among them, however long it runs
        command = self._command
        if command is None:
            return None
        pause = command.look(ended)
        if command.exited is None:
            return pause
        self._command = None
        end_descendants(self._config.state_file)
        self._tell(self._with_output(command.exited))
        return None

    def descriptors(self) -> list[int]:
        return [self._child_ended]

    def orphaned(self) -> None:
        if self._command:
            self._command.kill()
        end_descendants(self._config.state_file)
        if self._tail:
            self._tail.wait()

    def _with_output(self, exited: Exited) -> Exited:
        if self._tail is None:
            return exited
        self._tail.wait()
        return replace(exited, output=self._tail.text())

    def _run(self, job: Job) -> None:
        for directory in vars(self._config.directories).values():
            _make_legacy_directory(directory, job)
        environment = command_environment(job, self._config, os.environ)
        try:
            if self._config.report_output:
                secrets = secrets_of(environment, self._config.secrets)
                self._tail = Tail(self._config.report_output, secrets, after=self._tail)
            self._command = RunningCommand(job, environment, self._tail)
        except (OSError, ValueError) as error:
            logs.warn("command_not_started", job, detail=str(error))
            self._tell(why_not_started(job, error))
            return
        self._tell(Started(job.claim_id, self._command.pid))

    def _escalation(self, shutdown: bool) -> list[tuple[int, float]]:
        """Signals, and the seconds that the command has after each."""
        if shutdown:
            return [(signal.SIGTERM, self._config.shutdown_grace / 2), (signal.SIGKILL, 0)]
        return [(signal.SIGINT, CANCEL_GRACE), (signal.SIGTERM, CANCEL_GRACE), (signal.SIGKILL, 0)]


def why_not_started(job: Job, error: OSError | ValueError) -> Troubled | Exited | Refused:
    """What it means that the system would not start it: it may later, there is no such command, it never will."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _OUT_OF_RESOURCES:
        return Troubled(job.claim_id, "resources", str(error))
    if number in _NOT_FOUND:
        return Exited(job.claim_id, error=f"{job.command}: {error}")
    return Refused(job.claim_id, "not_started", str(error))


class RunningCommand:
    """A command and its process group. `exited` is set once it is over; OSError, ValueError if it cannot start."""

    def __init__(self, job: Job, environment: Mapping[str, str], tail: Tail | None = None) -> None:
        self.claim_id = job.claim_id
        self.exited: Exited | None = None
        self._oom_kills = oom_kills()
        try:
            self._process = subprocess.Popen(
                [job.command, *job.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=tail.stdout if tail else None,
                stderr=tail.stderr if tail else None,
                start_new_session=True,
                # Safe: this process has a single thread, or others that hold no lock but those of a Tail.
                preexec_fn=_preparation(os.getpid()),
            )
        finally:
            if tail:
                tail.begin()
        self.pid = self._process.pid
        self._escalation: list[tuple[int, float]] = []
        self._next_signal = 0.0
        self._signalled = False

    def stop(self, escalation: list[tuple[int, float]]) -> None:
        """Begin to signal the group; a second call changes nothing."""
        if not self._signalled:
            self._escalation = escalation
            self._signalled = True

    def look(self, ended: Mapping[int, int]) -> float | None:
        """See whether it is over, send the signal that is due; the seconds until it is worth looking again.

        `ended` are the children that were reaped: {process id: wait status}.
        """
        if self.pid in ended:
            self._process.returncode = os.waitstatus_to_exitcode(ended[self.pid])
        if self._is_over():
            self._finish()
            return None
        if not self._signalled:
            return None
        if self._escalation and boottime() >= self._next_signal:
            number, patience = self._escalation.pop(0)
            self._signal_group(number)
            self._next_signal = boottime() + patience
        return _LOOK_AGAIN

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

    def _is_over(self) -> bool:
        """A command is over with its leader, but a signalled one is given time until its whole group is gone."""
        leader_gone = self._process.returncode is not None
        return leader_gone and not (self._signalled and self._escalation and self._group_lives())

    def _finish(self) -> None:
        self._signal_group(signal.SIGKILL)  # whatever it left running would write into the next job's files
        code = self._process.returncode
        self.exited = Exited(
            self.claim_id,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            oom=self._ran_out_of_memory(code),
            signalled=self._signalled,
        )

    def _ran_out_of_memory(self, code: int) -> bool:
        """Whether the kernel has killed it, or something of it that it could not go on without, for its memory."""
        failed = code > 0 or code == -signal.SIGKILL
        return failed and (oom_kills() or 0) > (self._oom_kills or 0)

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def command_environment(job: Job, config: Config, container: Mapping[str, str]) -> dict[str, str]:
    """The container's environment, then the job's, then Kelpie's own (contract section 7)."""
    return {
        **without_bundle(container, is_frozen()),
        **job.environment,
        "INPUT_DIR": config.directories.input,
        "CHECKPOINT_DIR": config.directories.checkpoint,
        "OUTPUT_DIR": config.directories.output,
        "KELPIE_CHECKPOINT_STATUS": job.checkpoint_status,
        "KELPIE_JOB_ID": job.id,
        "KELPIE_STATE_FILE": config.state_file,
    }


def end_leftovers(state_file: str) -> None:
    """Kill what an earlier runner of this worker left running.

    Whoever has this state file's name and a job id in its environment, and means the same file by that name,
    descends from a command of this worker: the lock on the file says that there is no other.
    """
    for pid in _marked(state_file):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def end_descendants(state_file: str) -> None:
    """Kill whatever the command left behind, in sessions of its own too, and wait until it is gone.

    This process adopts the orphans among its descendants, so that they stay its descendants. Who is adopted by
    somebody in between has the command's environment.
    """
    deadline = boottime() + _LONGEST_CLEANUP
    while left := descendants(os.getpid()) | _marked(state_file):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for _ in _reaped():
            pass
        if boottime() >= deadline:
            logs.warn("leftovers_remain", pids=sorted(left))
            return
        time.sleep(_LOOK_AGAIN / 10)


def _marked(state_file: str) -> set[int]:
    """The processes with the environment of a command of the worker that has this state file."""
    wanted, found = f"\0KELPIE_STATE_FILE={state_file}\0".encode(), set()
    folder = Path(state_file).parent.resolve()
    for pid in process_ids():
        with contextlib.suppress(OSError):  # it ended, or is somebody else's
            variables = b"\0" + about(pid, "environ")
            if wanted in variables and b"\0KELPIE_JOB_ID=" in variables and _sees_as_we_do(pid, folder):
                found.add(pid)
    return found - {os.getpid(), os.getppid()}


def _sees_as_we_do(pid: int, folder: Path) -> bool:
    """Whether the path means the same to that process, which may be one of another container.

    The root is compared too, for a link below another root would be followed below ours.
    """
    root = Path(f"/proc/{pid}/root")
    return root.samefile("/") and (root / folder.relative_to("/")).samefile(folder)


def _reaped() -> Iterator[tuple[int, int]]:
    """Collect the children that have ended: (process id, wait status), ..."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _preparation(runner: int) -> Callable[[], None]:
    resettable = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]

    def prepare() -> None:
        """Between fork and exec: a shell that starts Kelpie in the background has it ignore SIGINT."""
        die_with(runner)
        for number in resettable:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    return prepare


def _make_legacy_directory(directory: str, job: Job) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:  # where the job needs it, its download has failed already
        logs.warn("directory_not_made", job, directory=directory, detail=str(error))
