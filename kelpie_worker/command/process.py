"""The user's command as a process: its environment, its start, its signals."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kelpie_worker.command.output import OutputRelay
from kelpie_worker.config import Config
from kelpie_worker.job import Job
from kelpie_worker.messages import Exited, Refused, Troubled
from kelpie_worker.system.linux import (
    boottime,
    die_with,
    gain_no_privileges,
    oom_kills,
)
from kelpie_worker.workspace.progress_folder import progress_path

_POLL = 0.05  # seconds; the end of a whole process group wakes no process
_OUT_OF_RESOURCES = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
_NOT_FOUND = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)


def why_not_started(job: Job, error: OSError | ValueError) -> Troubled | Exited | Refused:
    """The message for a command that could not be started.

    Troubled: for want of resources, it may start later. Exited: there is no such program. Refused: it never can.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in _OUT_OF_RESOURCES:
        return Troubled(job.claim_id, "resources", str(error))
    if number in _NOT_FOUND:
        return Exited(job.claim_id, error=f"{job.command}: {error}")
    return Refused(job.claim_id, "not_started", str(error))


@dataclass(frozen=True)
class Step:
    """A signal, and the seconds until the next one; `to_leader`: to the command's first process, not to all."""

    signal: int
    seconds: float
    to_leader: bool = False


class RunningCommand:
    """A command and its process group. `exited` is set when it has ended.

    Raises OSError or ValueError if it cannot be started.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], output: OutputRelay | None = None) -> None:
        self.claim_id = job.claim_id
        self.exited: Exited | None = None
        self._oom_kills = oom_kills()
        try:
            self._process = subprocess.Popen(
                [job.command, *job.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output.stdout if output else None,
                stderr=output.stderr if output else None,
                start_new_session=True,
                # Safe: the other threads of this process hold no locks that `prepare` takes.
                preexec_fn=_preparation(os.getpid()),
            )
        finally:
            if output:
                output.begin()
        self.pid = self._process.pid
        self._escalation: list[Step] = []
        self._next_signal = 0.0
        self._is_asked = False  # it was sent a signal that is to have it save, and none that ends it
        self._signalled = False

    def stop(self, escalation: list[Step]) -> None:
        """Begin to signal the command. A second call does nothing."""
        if not self._signalled:
            self._escalation = escalation
            self._signalled = True

    def terminate(self) -> None:
        """It has saved what it was asked to save: the signal that ends it is due."""
        if self._is_asked:
            self._next_signal = boottime()

    def look(self, ended: Mapping[int, int]) -> float | None:
        """Set `exited` if the command has ended, else send the signal that is due.

        `ended` are the children that were reaped: {process id: wait status}. Returns the seconds until the next
        call; None: not before a child ends.
        """
        if self.pid in ended:
            self._process.returncode = os.waitstatus_to_exitcode(ended[self.pid])
        if self._is_over():
            self._finish()
            return None
        if not self._signalled:
            return None
        if self._is_asked and self._process.returncode is not None:
            self.terminate()  # what is left of its group is not waited for
        if self._escalation and boottime() >= self._next_signal:
            self._take(self._escalation.pop(0))
        return _POLL

    def _take(self, step: Step) -> None:
        self._is_asked = step.to_leader
        if step.to_leader:
            self._process.send_signal(step.signal)  # nothing, if it was reaped
        else:
            self._signal_group(step.signal)
        self._next_signal = boottime() + step.seconds

    def kill(self) -> None:
        self._signal_group(signal.SIGKILL)

    def _is_over(self) -> bool:
        """Whether the group's leader has ended; after a signal, whether the whole group has, or its time is up."""
        leader_gone = self._process.returncode is not None
        return leader_gone and not (self._signalled and self._escalation and self._group_lives())

    def _finish(self) -> None:
        self._signal_group(signal.SIGKILL)  # what it left running would write into the next job's files
        code = self._process.returncode
        self.exited = Exited(
            self.claim_id,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            oom=self._ran_out_of_memory(code),
            signalled=self._signalled,
        )

    def _ran_out_of_memory(self, code: int) -> bool:
        """Whether it failed while the OOM killer killed a process of this container."""
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
    """The container's environment, then the job's, then Kelpie's own (docs/worker.md, What the command sees)."""
    attempt = {} if job.attempt is None else {"KELPIE_ATTEMPT": str(job.attempt)}
    return {
        **container,
        **job.environment,
        **attempt,
        "INPUT_DIR": config.directories.input,
        "CHECKPOINT_DIR": config.directories.checkpoint,
        "OUTPUT_DIR": config.directories.output,
        "KELPIE_CHECKPOINT_STATUS": job.checkpoint_status,
        "KELPIE_JOB_ID": job.id,
        "KELPIE_PROGRESS": progress_path(config.state_file, job.claim_id),
        "KELPIE_STATE_FILE": config.state_file,
    }


def _preparation(runner: int) -> Callable[[], None]:
    resettable = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]

    def prepare() -> None:
        """Runs between fork and exec. Signals are reset, because a background job of a shell ignores SIGINT."""
        die_with(runner)
        for number in resettable:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        gain_no_privileges()  # a job is foreign code: sudo and its like would reach what is not the worker's

    return prepare
