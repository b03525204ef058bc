"""File events of a directory. They only make a scan run sooner: events get lost, so scans decide."""

import logging
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kelpie_worker import logs
from kelpie_worker.system.linux import boottime

_MOST_LOST = 100_000  # directories


class FileEvents:
    """Watches a directory at any depth for events of the file system. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self.last_at = 0.0  # CLOCK_BOOTTIME of the last event of the file system; 0: none
        self._changed = threading.Event()
        self._last = 0.0
        self._stop: Callable[[], None] = lambda: None

    def listen(self, directory: str) -> None:
        """Begin to watch. Without inotify there are no events, and the periodic scans find every change."""
        from watchdog.events import (
            EVENT_TYPE_CLOSED_NO_WRITE,
            EVENT_TYPE_OPENED,
            FileSystemEvent,
            FileSystemEventHandler,
        )
        from watchdog.observers import Observer

        _be_quiet()
        reading = (EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE)  # caused by the scans and uploads themselves
        file_events = self

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type not in reading:
                    file_events.last_at = boottime()
                    file_events.set()

        observer = Observer()
        try:
            observer.schedule(Handler(), directory, recursive=True)
            observer.start()
        except (OSError, RecursionError) as error:  # no watches left, or very deep directories: scans find all
            logs.warn("watching_by_scans_only", directory=directory, detail=str(error))
            return
        self._stop = lambda: _stop(observer)

    def set(self) -> None:
        """Note an event, and end a `wait`."""
        self._last = time.monotonic()
        self._changed.set()

    def wait(self, timeout: float) -> None:
        """Sleep until something happens, or happened since the last wait; `timeout` seconds at most."""
        self._changed.wait(timeout)
        self._changed.clear()

    def quiet_for(self) -> float:
        """Seconds since the last event."""
        return time.monotonic() - self._last

    def stop(self) -> None:
        self._stop()


def _be_quiet() -> None:
    """Silence watchdog's own log and warnings: they are about its inner state, and not in the format of ours."""
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")


def _stop(observer: Any) -> None:
    """End the observer's threads, and close its file descriptors.

    watchdog loses track of directories that are renamed while it reads them, and its `deactivate` raises KeyError
    at the first of those. Each call removes one of them, so that it is called until it succeeds.
    """
    for emitter in observer.emitters:
        group: Any = getattr(emitter, "_inotify", None)
        for _ in range(_MOST_LOST if group else 0):
            with suppress(KeyError):
                group.deactivate()
                break
    try:
        observer.stop()
    except Exception as error:  # noqa: BLE001 - a few descriptors are lost; an error would lose a checkpoint
        logs.warn("watching_not_ended", detail=f"{type(error).__name__}: {error}")
