"""One record for each file of a watched directory: what is known of it here, and of its object in the bucket.

All times are in seconds of the monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from kelpie_worker.job import ObjectKey, StoredObject
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.workspace.file_version import Signature, Snapshot

_BETWEEN_REFUSALS = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True)
class DirectoryHistory:
    """What happened to a directory before its watch began. The keys of the mappings are relative paths."""

    brought: Snapshot  # the files that the download brought
    objects: Mapping[str, StoredObject]  # what they are in the bucket still, as far as that is known
    origins: Mapping[str, ObjectKey]  # the objects that all of them came from
    sent: bool  # an earlier uploader of this attempt sent from the directory
    is_untouched: bool = False  # the command has not run since the download
    is_of_another_boot: bool = False  # what a disk had not saved then may have changed without its times


@dataclass(slots=True)
class Movement:
    """How one file has been written since it appeared. For another file under the same path it begins anew."""

    appeared: float = -math.inf
    moved_at: float = -math.inf  # when it was last seen to have changed
    moves_since: float | None = None  # without a rest
    open_since: float | None = None  # as long as it moves, and is open at each look
    rewritten: bool = False  # in place, since it was sent: not only appended to
    held_since: float | None = None  # since when it has been open, as far as it was looked, though rewritten
    always_open: bool = False  # it was still open after the longest wait

    @property
    def only_grows(self) -> bool:
        """Whether it becomes longer at each look, without a rest, and was not written anew as far as was seen."""
        return self.moves_since is not None and not self.rewritten


@dataclass(slots=True)
class Sendings:
    """What it has cost to send a file that only grows, since it began anew. `pacing` decides by it."""

    size: int = 0  # bytes sent in all
    last_at: float = -math.inf
    took: float | None = None  # seconds, the last time; None: not known
    is_not_copied: bool = False  # storage has refused to copy what it has of this version
    proven_until: float = -math.inf  # until then its beginning need not be compared again with what was sent


@dataclass(slots=True)
class SentContent:
    """What is known of the content that was sent, and how far the file's signature tells that it is the same."""

    digest: bytes | None = None  # None: not known
    may_differ: bool = False  # the file may have another content by now under the same signature
    was_compared: bool = False  # since it was sent, and every later write would show
    differs: bool = False  # the file has another content under the same signature


@dataclass(slots=True)
class TrackedFile:
    """What is known of one file, and of its object."""

    # In the directory.
    seen: Signature | None = None  # as the last scan found it; None: it is not there
    movement: Movement = field(default_factory=Movement)
    was_here: bool = False  # in a decision of this attempt, and not deleted from the bucket since
    in_last_generation: bool = False
    # In the bucket.
    origin: ObjectKey | None = None  # the object that the download brought it from
    sent: Signature | None = None  # the version that the bucket has: of this watch, or brought by the download
    uploaded: Signature | None = None  # the version that this watch has put there
    stored: StoredObject | None = None  # the object, where the file would be sent
    tail: bytes | None = None  # the last bytes of the version that was sent; None: not known
    content: SentContent = field(default_factory=SentContent)
    # Of its uploads.
    sendings: Sendings = field(default_factory=Sendings)
    preparing_took: float | None = None  # seconds, for a version that has grown and is not committed yet
    spoiled: int = 0  # times that it was rewritten while it was read
    refused: int = 0  # times that the bucket refused it, since it changed
    try_again_at: float = -math.inf  # after a refusal

    def take(
        self,
        version: Signature,
        stored: StoredObject,
        tail: bytes,
        digest: bytes | None = None,
        sending: Sendings | None = None,
    ) -> None:
        """The bucket has taken this version. `sending` says what that has cost.

        That the file still has the content that was sent is not known yet.
        """
        sending = sending or Sendings()
        self.sendings = replace(
            sending, size=sending.size + (self.sendings.size if self.has_grown(version) else 0)
        )
        self.sent = self.uploaded = version
        self.stored, self.tail, self.content = stored, tail, SentContent(digest, may_differ=True)
        self.movement.rewritten, self.movement.held_since = False, None

    def has_grown(self, version: Signature) -> bool:
        """Whether this version is what was sent, with more at its end, as far as is known."""
        return self.sent is not None and version.is_longer(self.sent) and not self.movement.rewritten

    def put_off(self, now: float) -> None:
        """Record a refusal: the file is tried again after a pause that grows with every refusal."""
        self.refused += 1
        self.try_again_at = now + _BETWEEN_REFUSALS.after(self.refused)

    def settle(self) -> None:
        """Forget the refusals: the bucket has the file as it is."""
        self.refused, self.try_again_at = 0, -math.inf

    def leave(self) -> None:
        """The file is gone from the directory: forget everything but its object."""
        self.seen, self.movement = None, Movement()
        self.tail, self.content, self.spoiled = None, SentContent(may_differ=True), 0

    @property
    def matters(self) -> bool:
        """Whether the record is still needed though the file is gone."""
        return self.was_here or self.sent is not None or self.stored is not None


class TrackedFiles(dict[str, TrackedFile]):
    """The records of one directory by relative path. `files[path]` begins a record, `del` forgets it."""

    def __init__(
        self, history: DirectoryHistory, matches: Callable[[str], bool], key_of: Callable[[str], ObjectKey]
    ):
        """`matches` says which paths are watched, `key_of` where each of them would be sent."""
        super().__init__()
        self._origins = history.origins
        for path, version in history.brought.items():
            if matches(path):
                self[path].sent, self[path].content = version, SentContent(may_differ=True)
                self[path].sendings.size = version.size
                stored = history.objects.get(path)
                if stored and stored.place == key_of(path):
                    self[path].stored = stored

    def __missing__(self, path: str) -> TrackedFile:
        file = self[path] = TrackedFile(origin=self._origins.get(path))
        return file

    def forget_absent(self, found: Snapshot) -> None:
        """Of the files that a scan no longer shows, keep only the records of their objects."""
        for path in [path for path, file in self.items() if file.seen and path not in found]:
            self[path].leave()
            if not self[path].matters:
                del self[path]

    def changed(self, found: Snapshot) -> Snapshot:
        """The files whose found version the bucket does not have."""
        return {
            path: version
            for path, version in found.items()
            if self[path].sent != version or self[path].content.differs
        }

    def is_settled(self, found: Snapshot) -> bool:
        """Whether nothing was written, and nothing removed, since the last generation."""
        last = {path for path, file in self.items() if file.in_last_generation}
        return found.keys() == last and not self.changed(found)

    def removed(self, found: Snapshot, final: bool) -> list[str]:
        """The files that the command has deleted, and that neither this generation nor the last one has, sorted.

        With `final` the one before does not matter. Only a file that was here in this attempt counts as removed:
        what was absent at its start may be another attempt's (docs/worker.md, Checkpoints).
        """
        return sorted(
            path
            for path, file in self.items()
            if file.was_here and path not in found and (final or not file.in_last_generation)
        )

    def end_generation(self, found: Snapshot) -> None:
        """The next generation is compared with these files."""
        for path, file in self.items():
            file.in_last_generation = path in found

    @property
    def objects(self) -> dict[str, StoredObject]:
        """The objects of the directory's files, by path."""
        return {path: file.stored for path, file in self.items() if file.stored}
