"""When a command has stalled: what counts as a sign of life, and after how long without one. Decisions only."""

from dataclasses import dataclass


@dataclass
class Stall:
    """What is known of one command's signs of life.

    The rule: a command has stalled once `stall_after` seconds passed without a sign of life, until the next sign.

        sign                             counts until the command told any progress  counts afterwards
        -------------------------------  ------------------------------------------  -----------------
        progress that moved              yes                                         yes
        the same progress again          -                                           -
        printed output                   yes                                         -
        a change of files that it saves  yes                                         -

    The time is what the worker itself has seen pass, so a machine that slept has not stalled. While files go up it
    stands still, because changes of files are not always seen then; for a command that tells progress it goes on.
    """

    quiet: float = 0.0  # seconds since the last sign of life
    tells_progress: bool = False  # the command has told progress at least once
    is_stalled: bool = False

    @property
    def missing(self) -> str:
        """What a stalled command did not show, for the log."""
        return "progress" if self.tells_progress else "change of a file or of the output"

    def begin(self) -> None:
        """The command was started: the time counts from here."""
        self.quiet, self.tells_progress = 0.0, False

    def pass_time(self, seconds: float, stall_after: float, is_uploading: bool) -> bool:
        """Count these seconds; whether the command stalls from now on, and had not before."""
        if self.tells_progress or not is_uploading:
            self.quiet += seconds
        if self.is_stalled or self.quiet < stall_after:
            return False
        self.is_stalled = True
        return True

    def note_progress(self, has_moved: bool) -> bool:
        """The command told its progress; whether that ends a stall."""
        self.tells_progress = True
        return has_moved and self._note_sign()

    def note_change(self) -> bool:
        """The command printed something, or a file that it saves changed; whether that ends a stall."""
        return not self.tells_progress and self._note_sign()

    def _note_sign(self) -> bool:
        was_stalled, self.quiet, self.is_stalled = self.is_stalled, 0.0, False
        return was_stalled
