"""That something may have changed in a directory. Only a hint: events get lost, so a scan decides."""

import threading
import time
from collections.abc import Callable

from kelpie_worker import logs


class Hint:
    def __init__(self) -> None:
        self._changed = threading.Event()
        self._last = 0.0
        self._stop: Callable[[], None] = lambda: None

    def listen(self, directory: str) -> None:
        from watchdog.events import (
            EVENT_TYPE_CLOSED_NO_WRITE,
            EVENT_TYPE_OPENED,
            FileSystemEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers import Observer

        reading = (EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE)  # as the scans and uploads themselves do
        hint = self

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type not in reading:
                    hint.set()

        observer = Observer()
        try:
            observer.schedule(Handler(), directory, recursive=True)
            observer.start()
        except OSError as error:  # no watches left: the periodic scan finds everything too
            logs.warn("watching_by_scans_only", directory=directory, detail=str(error))
            return
        self._stop = observer.stop

    def set(self) -> None:
        self._last = time.monotonic()
        self._changed.set()

    def wait(self, timeout: float) -> None:
        self._changed.wait(timeout)
        self._changed.clear()

    def quiet_for(self) -> float:
        return time.monotonic() - self._last

    def stop(self) -> None:
        self._stop()
