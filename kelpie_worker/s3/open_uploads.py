"""A journal of the open multipart uploads, so that the next run of this worker aborts what a crash left open.

The file is beside the state file, which only one worker uses. A line is [true, id, bucket, key] for an upload that
was begun, [false, id] for one that was completed or aborted; with the last open upload the file is deleted. The
uploads of a machine that vanished cannot be found this way: a lifecycle rule of the bucket has to end them.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from kelpie_worker import logs
from kelpie_worker.workspace.paths import own_name

Upload = tuple[str, str, str]  # id, bucket, key


def journal_of(state_file: str) -> Path:
    return Path(state_file).parent / own_name("uploads", str(Path(state_file).absolute()))


class OpenUploads:
    """The open uploads. Without a path they are not saved."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open: dict[str, Upload] = dict(_read(path)) if path else {}
        self._abandoned = set(self._open)  # ids of those that no thread continues
        self._begun_at: dict[str, float] = {}

    def begun(self, upload: Upload, at: float | None = None) -> None:
        """`at`: seconds since 1970, by the clock of the storage."""
        with self._lock:
            self._open[upload[0]] = upload
            if at is not None:
                self._begun_at[upload[0]] = at
            self._note([True, *upload])

    def begun_at(self, upload_id: str) -> float | None:
        """When an upload of this run began, by the clock of the storage; None if that is not known."""
        return self._begun_at.get(upload_id)

    def over(self, upload_id: str) -> None:
        """The upload is complete, or aborted."""
        with self._lock:
            self._abandoned.discard(upload_id)
            self._begun_at.pop(upload_id, None)
            if self._open.pop(upload_id, None):
                self._note([False, upload_id])

    def abandon(self, upload_id: str) -> None:
        """The upload could not be aborted; `abort_left` is to try again."""
        with self._lock:
            self._abandoned |= self._open.keys() & {upload_id}

    @property
    def any_left(self) -> bool:
        return bool(self._abandoned)

    def abort_left(self, abort: Callable[[Upload], None]) -> None:
        """Call `abort` for every abandoned upload; it calls `over` when it succeeds."""
        with self._lock:
            abandoned = [self._open[upload_id] for upload_id in sorted(self._abandoned)]
        for upload in abandoned:
            abort(upload)

    def _note(self, line: list[object]) -> None:
        """Append a line. A failure is logged and not raised: it costs a little storage, never a file."""
        if self._path is None:
            return
        try:
            if not self._open:
                self._path.unlink(missing_ok=True)
                return
            with self._path.open("a") as journal:
                journal.write("\n" + json.dumps(line))  # begins with a newline: the line before may be truncated
        except OSError as error:
            logs.warn("unfinished_uploads_not_noted", detail=str(error))


def _read(path: Path) -> list[tuple[str, Upload]]:
    """The uploads that an earlier run left open. Truncated lines are skipped."""
    found: dict[str, Upload] = {}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logs.warn("unfinished_uploads_not_known", detail=str(error))
        return []
    for line in lines:
        try:
            is_open, upload_id, *target = json.loads(line)
            if is_open:
                bucket, key = target
                found[str(upload_id)] = (str(upload_id), str(bucket), str(key))
            else:
                found.pop(str(upload_id), None)
        except (ValueError, TypeError):
            continue
    return list(found.items())
