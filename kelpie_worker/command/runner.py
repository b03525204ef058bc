"""The runner: the child process that runs the command, and ends it with all processes that it started."""

import contextlib
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.command.masking import secrets_of
from kelpie_worker.command.output import OutputRelay
from kelpie_worker.command.output_tail import OutputTail
from kelpie_worker.command.output_watch import OutputWatch
from kelpie_worker.command.process import RunningCommand, Step, command_environment, why_not_started
from kelpie_worker.command.progress_lines import ProgressLines
from kelpie_worker.command.progress_watch import ProgressWatch
from kelpie_worker.config import Config
from kelpie_worker.job import CheckpointSignal, Job
from kelpie_worker.limits import LARGEST_PIECE
from kelpie_worker.messages import Exited, FollowOutput, Run, Started, Stop, Terminate
from kelpie_worker.processes.child import ChildWork, Tell, run_child
from kelpie_worker.processes.leftovers import end_descendants, end_leftovers, reaped
from kelpie_worker.system.linux import (
    adopt_orphans,
    wake_on_child_ends,
)
from kelpie_worker.system.signals import Termination
from kelpie_worker.workspace import progress_folder

CANCEL_GRACE = 5.0  # seconds between SIGINT, SIGTERM and SIGKILL
_LOOK_EVERY = 0.5  # seconds; at what a command has printed
_SAME_TERMINATION = 5.0  # seconds after a SIGTERM for all; by then the supervisor has had the command stopped
_TERMINATED = 128 + signal.SIGTERM  # with which shells, and others that handle the signal, exit


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
        self._output_watch: OutputWatch | None = None
        self._progress_watch: ProgressWatch | None = None
        self._child_ended = wake_on_child_ends()
        self._termination = Termination()

    def carry_out(self, command: Run | Stop | Terminate | FollowOutput) -> None:
        match command:
            case Run():
                if self._command is None and command.job.claim_id != self._ended:
                    self._run(command.job)
            case Stop():
                if self._command is None or self._command.claim_id != command.claim_id:
                    self._tell(Exited(command.claim_id, signalled=True))  # it ended with an earlier runner
                else:
                    self._command.stop(self._escalation(command.shutdown, command.checkpoint_signal))
            case Terminate():
                if self._command and self._command.claim_id == command.claim_id:
                    self._command.terminate()
            case FollowOutput():
                if self._command and self._command.claim_id == command.claim_id and self._output_watch:
                    self._output_watch.is_followed = command.is_followed

    def tick(self) -> float | None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._child_ended, 4096)
        ended = dict(reaped())  # orphans of the command too, while it is still running
        command = self._command
        if command is None:
            return None
        pause = command.look(ended)
        if command.exited is None:
            return self._look(pause)
        self._command, self._ended = None, command.claim_id
        end_descendants(self._config.state_file)
        exited = self._with_output(command.exited)
        self._tell(replace(exited, signalled=exited.signalled or self._was_told_to_end_with_us(exited)))
        return None

    def _was_told_to_end_with_us(self, exited: Exited) -> bool:
        """Whether the command got a SIGTERM that all processes of the worker got.

        It may come to the command first, so this waits for a moment where it looks like one.
        """
        seems_so = exited.signal == signal.SIGTERM or exited.exit_code == _TERMINATED
        until = time.monotonic() + (1 if seems_so else 0)
        while not self._termination.within(_SAME_TERMINATION) and time.monotonic() < until:
            time.sleep(0.02)
        return self._termination.within(_SAME_TERMINATION)

    def _look(self, pause: float | None) -> float | None:
        """Look at what the command printed. Returns the seconds until the next call, at most `pause`."""
        if self._output_watch is None:
            return pause
        self._output_watch.look()
        return _LOOK_EVERY if pause is None else min(pause, _LOOK_EVERY)

    def descriptors(self) -> list[int]:
        return [self._child_ended]

    def clean_up(self) -> None:
        if self._command:
            self._command.kill()
        end_descendants(self._config.state_file)
        if self._output:
            self._output.wait()

    def _with_output(self, exited: Exited) -> Exited:
        """The command's end, with all that is to be told of it before."""
        if self._output is None:
            return exited
        self._output.wait()
        if self._progress_watch:
            self._progress_watch.end()
        if self._output_watch:
            self._output_watch.look(final=True)
        self._progress_watch = self._output_watch = None
        if not self._config.report_output:
            return exited
        return replace(exited, output=self._output.tail.text(self._config.report_output))

    def _run(self, job: Job) -> None:
        for directory in vars(self._config.directories).values():
            _make_legacy_directory(directory, job)
        progress_folder.prepare(self._config.state_file, job)
        environment = command_environment(job, self._config, os.environ)
        try:
            relay = self._relay(job, secrets_of(environment, self._config.secrets, job.secrets))
            self._command = RunningCommand(job, environment, relay)
        except (OSError, ValueError) as error:
            logs.warn("command_not_started", job, detail=str(error))
            self._ended, self._progress_watch, self._output_watch = job.claim_id, None, None
            self._tell(why_not_started(job, error))
            return
        if self._progress_watch:
            self._progress_watch.start()
        self._tell(Started(job.claim_id, self._command.pid))

    def _relay(self, job: Job, secrets: frozenset[bytes]) -> OutputRelay | None:
        """What passes the output on and reads it; None where nothing of it is asked for: the command has ours."""
        is_watched = not {"progress", "output"}.isdisjoint(job.speaks)
        if not (self._config.report_output or is_watched):
            return None
        tail = OutputTail(max(self._config.report_output, LARGEST_PIECE if is_watched else 0), secrets)
        lines = ProgressLines() if "progress" in job.speaks else None
        self._output = OutputRelay(tail, lines, after=self._output)
        self._output_watch = OutputWatch(job, tail, self._tell) if is_watched else None
        if lines:
            self._progress_watch = ProgressWatch(job, self._config.state_file, lines, secrets, self._tell)
        return self._output

    def _escalation(self, shutdown: bool, checkpoint_signal: CheckpointSignal | None) -> list[Step]:
        """The signals to send. The first may have the command save for half of the time that it gets."""
        if not shutdown:
            return [
                Step(signal.SIGINT, CANCEL_GRACE),
                Step(signal.SIGTERM, CANCEL_GRACE),
                Step(signal.SIGKILL, 0),
            ]
        share = self._config.shutdown_grace / 2
        if checkpoint_signal is None:
            return [Step(signal.SIGTERM, share), Step(signal.SIGKILL, 0)]
        asking = Step(signal.Signals[f"SIG{checkpoint_signal}"], share / 2, to_leader=True)
        return [asking, Step(signal.SIGTERM, share / 2), Step(signal.SIGKILL, 0)]


def _make_legacy_directory(directory: str, job: Job) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:  # if the job needs the directory, its download has failed already
        logs.warn("directory_not_made", job, directory=directory, detail=str(error))
