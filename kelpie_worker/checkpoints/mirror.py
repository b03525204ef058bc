"""What is to be done about a watched directory, decided from one look at it. Decisions only: nothing here waits,
reads a clock, or touches a disk or a bucket.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from kelpie_worker.checkpoints.commit_order import commit_order
from kelpie_worker.checkpoints.pacing import Pacing
from kelpie_worker.checkpoints.stability import OpenFiles, Restless, Stability
from kelpie_worker.checkpoints.tracked_files import TrackedFiles
from kelpie_worker.workspace.file_version import Snapshot

MOST_FILES = 1000  # of one generation; what is beyond it follows in the next


@dataclass(frozen=True)
class Look:
    """What a scan of the directory shows, and when."""

    found: Snapshot
    now: float  # seconds of the monotonic clock
    final: bool = False  # the command has ended: what is found now is all there will be
    at_rest: bool = True  # two scans in a row agreed; else the longest wait for that is over
    shows_removals: bool = True  # what was not found is gone, and not only hidden
    is_one_state: bool = True  # the directory was so at one moment; else a part may be older than another
    opened: OpenFiles = field(default_factory=OpenFiles)

    def without(self, removed: Collection[str], is_one_state: bool = True) -> Look:
        """The look without files that were removed since; whether the directory was so says `is_one_state`."""
        found = {path: seen for path, seen in self.found.items() if path not in removed}
        return replace(self, found=found, is_one_state=self.is_one_state and is_one_state)


@dataclass(frozen=True)
class UpToDate:
    """Nothing is to be done until something changes."""


@dataclass(frozen=True)
class Wait:
    """Look again in so many seconds: files are being written, and the others wait for them."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """Send these files as one generation, which may be empty; then ask what follows."""

    files: Snapshot  # in the order of their commit
    is_all: bool  # else more is ready, and follows in a generation of its own
    restless: frozenset[str]  # files that are being written; a log among them is sent as it is
    removed: tuple[str, ...]  # files whose objects are due for deletion
    held: frozenset[str] = frozenset()  # files that only grew, and are sent again later, or beside this generation
    aside: Snapshot = field(default_factory=dict)  # those of them that are to be sent beside it


@dataclass(frozen=True)
class Sequel:
    """What follows a generation that was sent."""

    is_whole: bool  # report what the bucket has, less what is deleted: it is one state of the directory
    delete: tuple[str, ...]  # after that, the objects of these files
    unsteady: frozenset[str]  # files that are, or were, being written: left out, or of no proven state
    up_to_date: bool  # what is left out can wait until something changes, or until refusals are tried again


class Mirror:
    """What one turn of a watch does, by what its look shows.

    `whole` says whether the generation is reported as one state of the directory, and `again` when the next look
    is worth while: `change`, when something changed, or after the usual pause between scans; `soon`, after the
    seconds of a Wait; `now`, at once; `end`, never. How long a file is waited for, `Stability` says; how often one
    that only grows is sent again, `Pacing`.

        the look shows                                              sends       whole  deletes  again
        ----------------------------------------------------------  ----------  -----  -------  ------
        nothing written or removed since the last generation        -           -      -        change
        a new file                                                  new         yes    -        change
        the same, where the directory does not hold still           new         -      -        change
        a file replaced by a new version                            file        yes    -        change
        a file that grows without a rest, after it was sent once    file        yes    -        change
        the same, sent again too often, beside a new file           new         -      -        change
        the same, beside a file removed before                      new         -      old      change
        the same, without another file                              -           -      -        change
        the same, where storage copies what it has of the file      file        yes    -        change
        the same, once much time has passed                         file        yes    -        change
        a small file that grows, beside a new one                   small new   yes    -        change
        a large file that grew and takes long, beside a new one     new         -      -        change
        more files than a generation may have                       1000 files  -      -        now
        a file removed since the last generation                    -           -      -        change
        the same, where what was sent before was never reported     -           yes    -        change
        the same, beside a new file                                 new         yes    -        change
        a file removed before the last generation                   -           yes    old      change
        the same, beside a new file                                 new         yes    old      change
        the same, where the directory does not hold still           new         -      -        change
        the same, hidden by a link or in a closed folder            -           -      -        change
        the same, where deletes are not mirrored                    -           -      -        change
        a new file that is open for writing, beside a new one       -           -      -        soon
        the same, once it was waited for                            new open    yes    -        change
        a file being rewritten in place, beside a new one           -           -      -        soon
        the same, once it was waited for                            new         -      -        now
        the same, beside a file removed before                      new         -      -        now
        a new file being rewritten, beside a file removed before    -           -      -        now
        a new file that grows without a rest                        -           -      -        soon
        the same, once it was waited for                            log         -      -        now
        a file that the bucket refuses, beside a new one            new no      -      -        change
        a refused file, beside a new one                            new         -      -        change
        a refused version, beside a file removed before             new         -      -        change
        a refused file that is due again                            no          yes    -        change
        a file that goes away with its directory, beside a new one  new gone    yes    -        change
        final: a file being rewritten in place                      file        yes    -        end
        final: a file that grew, sent again too often               file        yes    -        end
        final: a file removed since the last generation             -           yes    old      end
        final: a refused file, beside a new one                     new         -      -        now
        final: a refused file                                       no          yes    -        end
        final: a new file, where the directory does not hold still  new         -      -        now

    A file that is left out keeps the others' generation from being whole. It keeps deletions back, too, unless it
    only grew: it may be what takes the place of the removed files, or the bucket's version of it may name them. A
    look at a directory that does not hold still does both: what it shows may name files that were not there yet
    when they were looked for.
    """

    def __init__(self, files: TrackedFiles, stability: Stability, pacing: Pacing, mirrors_deletes: bool) -> None:
        self.files = files
        self.stability = stability
        self._pacing = pacing
        self._mirrors_deletes = mirrors_deletes

    def decide(self, look: Look) -> UpToDate | Wait | Send:
        """What to do after this look. The files were noted by `Stability.see`."""
        for path in look.found:
            self.files[path].was_here = True
        changed = self.files.changed(look.found)
        for path, file in self.files.items():
            if file.refused and path not in changed:
                file.settle()
        removed = self._removed(look)
        if self.files.is_settled(look.found) and not removed:
            return UpToDate()
        restless = self._restless(look, changed)
        if restless.paths and not self.stability.waited_enough(look.now):
            return Wait(self.stability.pause)
        ready = self._ready(look, changed.keys() - (restless.paths - restless.logs))
        held, aside = (frozenset(), frozenset()) if look.final else self._held(ready, changed, look.now)
        ready = [path for path in ready if path not in held]
        taken = commit_order({path: changed[path] for path in ready})[:MOST_FILES]
        return Send(
            files={path: changed[path] for path in taken},
            is_all=len(taken) == len(ready),
            restless=restless.paths,
            removed=tuple(removed),
            held=held,
            aside={path: changed[path] for path in aside},
        )

    def after(self, sent: Send, look: Look, now: float, is_unreported: bool) -> Sequel | None:
        """What follows once a generation is sent; None if the next one follows at once, with what is ready too.

        `look` is the one that it was decided by, without what is gone since. `is_unreported` says whether anything
        was sent since the bucket was last reported as whole.
        """
        if not sent.is_all:
            return None
        left_out = sent.restless | self.files.changed(look.found).keys()
        delete = sent.removed if look.is_one_state and not self._may_need_removed(left_out, look) else ()
        refused = {path for path in left_out if self.files[path].refused}
        not_due = {path for path in refused if now < self.files[path].try_again_at}
        is_all = not left_out
        return Sequel(
            is_whole=bool(is_unreported or delete) and is_all and look.is_one_state,
            delete=delete,
            unsteady=(left_out - refused) | (frozenset() if look.is_one_state else frozenset(sent.files)),
            up_to_date=is_all and look.is_one_state if look.final else left_out <= not_due | sent.held,
        )

    def _may_need_removed(self, left_out: Collection[str], look: Look) -> bool:
        """Whether the bucket's version of a file that is left out may name what was removed, or replace it if new.

        That of a log does not: nothing in its beginning has changed.
        """
        here = {path: look.found[path] for path in left_out if path in look.found}
        return not all(self.files[path].has_grown(version) for path, version in here.items())

    def _removed(self, look: Look) -> list[str]:
        shown = self._mirrors_deletes and look.shows_removals
        return self.files.removed(look.found, look.final) if shown else []

    def _restless(self, look: Look, changed: Snapshot) -> Restless:
        """In the end no file is waited for: its writer has ended, or is not the command."""
        if look.final:
            return Restless()
        files = {path: self.files[path] for path in changed}
        return self.stability.restless(files, look.now, look.at_rest, look.opened)

    def _held(
        self, ready: Collection[str], changed: Snapshot, now: float
    ) -> tuple[frozenset[str], frozenset[str]]:
        """The files to be left out of this generation, and those of them that are to be sent beside it."""
        grown = {path: self.files[path] for path in ready if self.files[path].has_grown(changed[path])}
        others = [changed[path].size for path in ready if path not in grown]
        held = self._pacing.held(grown, others, now)
        aside = self._pacing.aside({path: file for path, file in grown.items() if path not in held})
        return held | aside, aside

    def _ready(self, look: Look, written: Collection[str]) -> Collection[str]:
        """What may go up now. In the end also what was refused, but once all the others are safe."""
        refused = {path for path in written if self.files[path].refused}
        not_due = {path for path in refused if look.now < self.files[path].try_again_at}
        others = [path for path in written if path not in (refused if look.final else not_due)]
        return others or (refused if look.final else ())
