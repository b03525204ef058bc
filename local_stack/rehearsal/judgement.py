"""What a rehearsal says: its numbers, and by sentence what the command does wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from local_stack.rehearsal.record import Attempt

NAMED = 3  # so many files are named in a sentence


@dataclass
class Run:
    """One job of the rehearsal, at its end. `tail` is the end of what the command and its worker said."""

    attempts: Sequence[Attempt]
    completed: bool
    files: Mapping[str, bytes]
    strays: Sequence[str] = ()
    tail: str = ""

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def code(self) -> int | None:
        """The exit code that ended it."""
        return self.attempts[-1].code if self.attempts else None


@dataclass
class Report:
    """`findings` are sentences; without one the command may be trusted with machines that vanish."""

    findings: list[str]
    notes: list[str] = field(default_factory=list)
    summary: str = ""
    tail: str = ""

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class Names:
    checkpoint: str
    output: str


def judge_reference(run: Run, names: Names) -> Report | None:
    """What is wrong without any kill; None if the rest of the rehearsal makes sense."""
    if not run.completed:
        said = f"exit code {run.code}" if run.code is not None else "its outputs could not be kept"
        return Report([f"It failed by itself, before anything was killed: {said}."], tail=run.tail)
    if not run.files:
        elsewhere = (
            f" It wrote {listed(run.strays)} elsewhere, which is lost with the machine." if run.strays else ""
        )
        return Report(
            [
                f"It left nothing in its output directory {names.output}/.{elsewhere} Have it write its results"
                " there, or name the directory with --output."
            ]
        )
    if not any(attempt.writes for attempt in run.attempts):
        return Report(
            [
                f"It never wrote to its checkpoint directory {names.checkpoint}/, so that every loss of a machine"
                " begins it anew. Have it save there, or name the directory with --checkpoint."
            ]
        )
    return None


def judge(reference: Run, rehearsed: Run, names: Names, same: bool | None, missed: Sequence[str]) -> Report:
    """The report of both runs. `same`: whether --compare found the outputs to be alike; None compares bytes."""
    differences = [] if same is not None else differing(reference.files, rehearsed.files)
    identical = same if same is not None else not differences
    findings = [
        finding
        for finding in (
            never_looks(reference, rehearsed, names),
            lost_its_way(rehearsed),
            None if identical or not rehearsed.completed else unlike(differences, same),
        )
        if finding
    ]
    return Report(
        findings, list(missed), summary(reference, rehearsed, bool(identical), same is not None), rehearsed.tail
    )


def resumed(attempt: Attempt) -> bool:
    return attempt.restored > 0 and bool(attempt.reads)


def never_looks(reference: Run, rehearsed: Run, names: Names) -> str | None:
    """Two signs together: no checkpoint was read, and the last attempt did all of the work.

    What a checkpoint says by the names of its files alone is read by no event, but shortens the last attempt.
    """
    later = [attempt for attempt in rehearsed.attempts[1:] if attempt.restored]
    if not later or any(attempt.reads for attempt in later) or rehearsed.attempts[-1].code != 0:
        return None
    if not did_all(reference, rehearsed):
        return None
    return (
        f"It never looks for its checkpoint: started {len(later)} times with files in {names.checkpoint}/, it read"
        " none of them and did all of the work again. Have it look there before it begins."
    )


def did_all(reference: Run, rehearsed: Run) -> bool:
    """Whether the last attempt saved as often as the run with no kill, or took as long."""
    last = rehearsed.attempts[-1]
    often = len(reference.attempts[-1].saves)
    if often > 1 and len(last.saves) >= often:
        return True
    available = max((attempt.saved for attempt in rehearsed.attempts[:-1]), default=0.0)
    return last.seconds >= reference.seconds - available / 2


def judge_restart(reference: Run, restarted: Run, same: bool | None) -> Report | None:
    """Rewriting in place is no fault by itself: only if a kill in the middle of it does harm."""
    names = sorted({name for attempt in restarted.attempts for name in attempt.in_place})
    identical = same if same is not None else not differing(reference.files, restarted.files)
    if not names or (restarted.completed and identical):
        return None
    harm = "its output is another one" if restarted.completed else f"it ends with exit code {restarted.code}"
    return Report(
        [
            f"It writes torn checkpoints: {listed(names)} is rewritten in place, and after a kill in the middle of"
            f" that {harm}. Have it write under another name and rename that."
        ],
        tail=restarted.tail,
    )


def lost_its_way(rehearsed: Run) -> str | None:
    if rehearsed.completed:
        return None
    said = f"exit code {rehearsed.code}" if rehearsed.code is not None else "its outputs could not be kept"
    if rehearsed.attempts and rehearsed.attempts[-1].status == "torn":
        return (
            f"Where a part of a checkpoint is in the bucket, it fails: {said}. A kill between two files of one"
            " leaves that; have it take the newest that is whole (one whose *.json is there: it goes up last), or"
            " use a bucket with versions."
        )
    return f"After a kill it did not go on from its checkpoint, but failed: {said}."


def unlike(differences: Sequence[str], same: bool | None) -> str:
    if same is not None:
        return "The command of --compare says that the output after the kills is another one."
    return (
        f"The output after the kills is another one: {listed(differences)}. If it may differ, say how to compare"
        " with --compare 'CMD {a} {b}'."
    )


def differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def summary(reference: Run, rehearsed: Run, identical: bool, compared: bool) -> str:
    later = rehearsed.attempts[1:]
    whole = reference.seconds or 1.0
    again = max(rehearsed.seconds - whole, 0.0) / whole
    outputs = ("alike" if compared else "identical") if identical else "different"
    parts = [
        f"resumed {sum(map(resumed, later))} of {len(later)}",
        f"outputs {outputs}",
        f"{again * 100:.0f} % of the work done twice",
        *checkpoints(reference.attempts[-1]),
    ]
    return ", ".join(parts)


def checkpoints(attempt: Attempt) -> list[str]:
    """How often one is written, what that costs, and the longest time without one."""
    saves = attempt.saves
    cost = sum(end - begin for begin, end in saves) / (attempt.seconds or 1.0)
    longest = f"longest time without one {max(attempt.gaps):.1f} s"
    if len(saves) < 2:
        return ["one checkpoint" if saves else "no checkpoint", longest]
    pauses = [later - earlier for (_, earlier), (_, later) in pairwise(saves)]
    return [f"a checkpoint every {median(pauses):.1f} s costs {cost * 100:.1f} %", longest]
