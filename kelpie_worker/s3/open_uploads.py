"""The multipart uploads that are open, on disk: whoever comes after a crash aborts them, and nobody else's.

A journal beside the state file, which has one worker. A line is [true, id, bucket, key] for an upload that was
begun, [false, id] for one that is over; the file goes with the last open one. An upload that was begun on a
machine that vanished is known to nobody: a lifecycle rule of the bucket ends it.
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
    """What is open. Without a path nothing outlives the process."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._open: dict[str, Upload] = dict(_read(path)) if path else {}
        self._left = set(self._open)  # those that nobody goes on with

    def begun(self, upload: Upload) -> None:
        with self._lock:
            self._open[upload[0]] = upload
            self._note([True, *upload])

    def over(self, upload_id: str) -> None:
        """It is complete, or aborted."""
        with self._lock:
            self._left.discard(upload_id)
            if self._open.pop(upload_id, None):
                self._note([False, upload_id])

    def leave(self, upload_id: str) -> None:
        """It could not be aborted; later, perhaps."""
        with self._lock:
            self._left |= self._open.keys() & {upload_id}

    @property
    def any_left(self) -> bool:
        return bool(self._left)

    def abort_left(self, abort: Callable[[Upload], None]) -> None:
        """Abort those that nobody goes on with; `abort` says by `over` that it has."""
        with self._lock:
            left = [self._open[upload_id] for upload_id in sorted(self._left)]
        for upload in left:
            abort(upload)

    def _note(self, line: list[object]) -> None:
        """As well as it can be done: what is lost with it costs a little storage, never a file."""
        if self._path is None:
            return
        try:
            if not self._open:
                self._path.unlink(missing_ok=True)
                return
            with self._path.open("a") as journal:
                journal.write("\n" + json.dumps(line))  # the line before may be cut
        except OSError as error:
            logs.warn("unfinished_uploads_not_noted", detail=str(error))


def _read(path: Path) -> list[tuple[str, Upload]]:
    """What an earlier life left open; a line that was cut off by its end counts as none."""
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
            is_open, upload_id, *place = json.loads(line)
            if is_open:
                bucket, key = place
                found[str(upload_id)] = (str(upload_id), str(bucket), str(key))
            else:
                found.pop(str(upload_id), None)
        except (ValueError, TypeError):
            continue
    return list(found.items())
