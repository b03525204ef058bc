"""The output of a command: passed on to the worker's own stdout and stderr, and read on its way."""

import os
import select
import threading

from kelpie_worker import logs
from kelpie_worker.command.output_tail import OutputTail
from kelpie_worker.command.progress_lines import ProgressLines

STDOUT, STDERR = 1, 2
_BLOCK = 65_536
_LONGEST_FLUSH = 1.0  # seconds for the last bytes to be written; while the reader is blocked, they never are


class OutputRelay:
    """Passes on the two output streams of one command, each in its own thread; `tail` keeps their last bytes.

    A thread blocks while the reader of the worker's output does. If stdout and stderr of the worker are the same
    file, the command gets one pipe for both, so that the order of what it writes is kept.
    """

    def __init__(
        self, tail: OutputTail, lines: ProgressLines | None = None, after: "OutputRelay | None" = None
    ) -> None:
        """`lines` reads the command's stdout. The output of `after`, the relay of the previous command, is written
        first."""
        self.tail = tail
        self._lines = lines
        self._pipes = {STDOUT: os.pipe()}
        if not os.path.sameopenfile(STDOUT, STDERR):
            self._pipes[STDERR] = os.pipe()
        self._threads = [
            threading.Thread(target=self._pass_on, args=(pipe[0], target, after), daemon=True, name="output")
            for target, pipe in self._pipes.items()
        ]

    @property
    def stdout(self) -> int:
        """The file descriptor that is the command's stdout."""
        return self._pipes[STDOUT][1]

    @property
    def stderr(self) -> int:
        return self._pipes.get(STDERR, self._pipes[STDOUT])[1]

    def begin(self) -> None:
        """Start to pass on. To be called once the command has its ends of the pipes, or failed to start.

        Our copies of those ends are closed, so that the pipes end with the command.
        """
        for _, written in self._pipes.values():
            os.close(written)
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = _LONGEST_FLUSH) -> None:
        """Wait until everything is passed on, at most `timeout` seconds for each stream; None: without limit."""
        for thread in self._threads:
            thread.join(timeout)

    def _pass_on(self, source: int, target: int, after: "OutputRelay | None") -> None:
        if after:
            after.wait(None)
        try:
            self._copy(source, target)
        except BrokenPipeError:
            pass  # the reader is gone: closing our end gives the command SIGPIPE, as if it wrote there directly
        finally:
            os.close(source)

    def _copy(self, source: int, target: int) -> None:
        writable = True
        while block := os.read(source, _BLOCK):
            self.tail.add(target, block)
            if self._lines and target == STDOUT:
                self._lines.feed(block)
            try:
                if writable:
                    _write_all(target, block)
            except BrokenPipeError:
                raise
            except OSError as error:  # such as a full disk: the command goes on, its output is read and dropped
                writable = False
                logs.warn("output_not_written", descriptor=target, detail=str(error))
        if self._lines and target == STDOUT:
            self._lines.end()


def _write_all(target: int, block: bytes) -> None:
    left = memoryview(block)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:  # another process that shares the file made it non-blocking
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()
