"""A TCP proxy of limited bandwidth to a server on this machine, whose connections can be cut at any moment."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

_PIECE = 32 * 1024  # bytes
_BUFFER = 64 * 1024


class Uplink:
    """Listens on `port` of 127.0.0.1 until `close`. `rate`: upload bytes a second of all connections together."""

    def __init__(self, target_port: int, rate: float) -> None:
        self._target_port = target_port
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections: bytes in transit are lost, as when a machine vanishes. New ones are accepted."""
        with self._lock:
            cut, self._open = self._open, set()
        for end in cut:
            _end(end)

    def close(self) -> None:
        _end(self._listener)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            server = socket.create_connection(("127.0.0.1", self._target_port))
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limited: bool) -> None:
        with suppress(OSError):  # one end was closed or cut, so the other is closed too
            while piece := source.recv(_PIECE if limited else 8 * _PIECE):
                if limited:
                    self._wait_for(len(piece))
                sink.sendall(piece)
        for end in (source, sink):
            _end(end)
        with self._lock:
            self._open -= {source, sink}

    def _wait_for(self, size: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate
            left = self._free_at - time.monotonic()
        time.sleep(max(0.0, left))


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # close alone does not wake a thread that is reading from it
    end.close()
