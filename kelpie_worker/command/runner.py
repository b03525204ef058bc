"""The runner: the child process that runs the command, and ends it with all processes that it started."""

import contextlib
import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.command.masking import secrets_of
from kelpie_worker.command.output import OutputRelay
from kelpie_worker.command.process import RunningCommand, command_environment, why_not_started
from kelpie_worker.config import Config
from kelpie_worker.job import Job
from kelpie_worker.messages import Exited, Run, Started, Stop
from kelpie_worker.processes.child import ChildWork, Tell, run_child
from kelpie_worker.processes.leftovers import end_descendants, end_leftovers, reaped
from kelpie_worker.system.linux import (
    adopt_orphans,
    wake_on_child_ends,
)

CANCEL_GRACE = 5.0  # seconds between SIGINT, SIGTERM and SIGKILL


def main(commands: Connection, messages: Connection, config: Config) -> None:
    # No die_with, and a session of its own: if the supervisor, or its whole process group, is killed, this process
    # still ends the command. It sees the supervisor's death by the end of `commands`.
    os.setsid()
    adopt_orphans()
    end_leftovers(config.state_file)
    run_child(commands, messages, config, lambda tell: Runner(config, tell))


class Runner(ChildWork):
    """At most one command at a time."""

    def __init__(self, config: Config, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._command: RunningCommand | None = None
        self._ended = ""  # the claim id of the last command: another process may have it told again to run it
        self._output: OutputRelay | None = None
        self._child_ended = wake_on_child_ends()

    def carry_out(self, command: Run | Stop) -> None:
        match command:
            case Run():
                if self._command is None and command.job.claim_id != self._ended:
                    self._run(command.job)
            case Stop():
                if self._command is None or self._command.claim_id != command.claim_id:
                    self._tell(Exited(command.claim_id, signalled=True))  # it ended with an earlier runner
                else:
                    self._command.stop(self._escalation(command.shutdown))

    def tick(self) -> float | None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._child_ended, 4096)
        ended = dict(reaped())  # orphans of the command too, while it is still running
        command = self._command
        if command is None:
            return None
        pause = command.look(ended)
        if command.exited is None:
            return pause
        self._command, self._ended = None, command.claim_id
        end_descendants(self._config.state_file)
        self._tell(self._with_output(command.exited))
        return None

    def descriptors(self) -> list[int]:
        return [self._child_ended]

    def clean_up(self) -> None:
        if self._command:
            self._command.kill()
        end_descendants(self._config.state_file)
        if self._output:
            self._output.wait()

    def _with_output(self, exited: Exited) -> Exited:
        if self._output is None:
            return exited
        self._output.wait()
        return replace(exited, output=self._output.text())

    def _run(self, job: Job) -> None:
        for directory in vars(self._config.directories).values():
            _make_legacy_directory(directory, job)
        environment = command_environment(job, self._config, os.environ)
        try:
            if self._config.report_output:
                secrets = secrets_of(environment, self._config.secrets)
                self._output = OutputRelay(self._config.report_output, secrets, after=self._output)
            self._command = RunningCommand(job, environment, self._output)
        except (OSError, ValueError) as error:
            logs.warn("command_not_started", job, detail=str(error))
            self._ended = job.claim_id
            self._tell(why_not_started(job, error))
            return
        self._tell(Started(job.claim_id, self._command.pid))

    def _escalation(self, shutdown: bool) -> list[tuple[int, float]]:
        """The signals to send, each with the seconds until the next one."""
        if shutdown:
            return [(signal.SIGTERM, self._config.shutdown_grace / 2), (signal.SIGKILL, 0)]
        return [(signal.SIGINT, CANCEL_GRACE), (signal.SIGTERM, CANCEL_GRACE), (signal.SIGKILL, 0)]


def _make_legacy_directory(directory: str, job: Job) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:  # if the job needs the directory, its download has failed already
        logs.warn("directory_not_made", job, directory=directory, detail=str(error))
