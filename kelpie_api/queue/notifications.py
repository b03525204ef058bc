"""Notifications of new work: one LISTEN connection for each process, which proves that it receives them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from kelpie_api import logs
from kelpie_api.db import SQL, Database, Row, shut_down
from kelpie_api.errors import Unavailable

PROOF_TIME = 2.0  # seconds in which the listener must receive its own notification
PROVEN_FOR = 30.0  # seconds until the next proof
DEAF_PAUSE = 30.0  # seconds before the next try where notifications do not arrive, as behind PgBouncer
RECONNECT_PAUSE = 1.0  # seconds


class Listener:
    """Receives notifications of new work on a connection of its own, once it has proven that they arrive.

    Behind PgBouncer LISTEN succeeds and no notification ever arrives (docs/design/protocol.md, Waiting for work).
    """

    def __init__(self, db: Database, tell: Callable[[str], None]) -> None:
        self.db = db
        self.tell = tell
        self.proven = False
        self.stopped = threading.Event()
        self._connection: psycopg.Connection[Row] | None = None

    def stop(self) -> None:
        self.stopped.set()
        connection = self._connection
        if connection is not None and not connection.closed:
            with suppress(OSError):  # the connection ended by itself meanwhile
                shut_down(connection)

    def keep_listening(self) -> None:
        pause = 0.0
        while not self.stopped.wait(pause):
            try:
                self.listen()
                pause = DEAF_PAUSE
            except (psycopg.Error, Unavailable) as error:
                if self.proven and not self.stopped.is_set():
                    logs.warning("listener_lost", message=str(error).strip())
                pause = RECONNECT_PAUSE
            finally:
                self._note(proven=False)

    def listen(self) -> None:
        """Pass notifications on for as long as each proof succeeds; return when one fails."""
        with self.db.connect() as connection:
            self._connection = connection
            connection.execute(SQL.stay_connected)
            connection.execute(SQL.listen)
            # Stopped while it connected, there was no connection yet that could be shut down.
            while not self.stopped.is_set() and self._hears(connection):
                self._note(proven=True)
                for notification in connection.notifies(timeout=PROVEN_FOR):
                    self.tell(notification.payload)

    def _hears(self, connection: psycopg.Connection[Row]) -> bool:
        token = f"proof {secrets.token_hex(16)}"
        self.db.one_or_none(SQL.prove_listener, token=token)
        deadline = time.monotonic() + PROOF_TIME
        while (left := deadline - time.monotonic()) > 0:
            for notification in connection.notifies(timeout=left, stop_after=1):
                if notification.payload == token:
                    return True
                self.tell(notification.payload)
        return False

    def _note(self, proven: bool) -> None:
        if proven != self.proven and not self.stopped.is_set():
            logs.info("listener_hears" if proven else "listener_deaf")
        self.proven = proven
