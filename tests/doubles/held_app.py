"""An application with requests that last until its process is to end, and then longer than idle connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

is_to_end = threading.Event()


class HeldApp:
    """`/hold` says in the output that it is held; `/exit` raises SystemExit."""

    def __init__(self) -> None:
        ended = SimpleNamespace(close=is_to_end.set)
        self.extensions = {"kelpie": SimpleNamespace(waiting=ended, readers=ended)}

    def __call__(self, asked: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
        path = asked["PATH_INFO"]
        if path == "/exit":
            raise SystemExit
        if path == "/hold":
            print("held", flush=True)
            is_to_end.wait()
            time.sleep(STOP_KEEPALIVE_LINGER + 1)
        start("200 OK", [("Content-Length", str(len(path)))])
        return [path.encode()]


app = HeldApp()
