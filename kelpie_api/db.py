"""The database: a pool, short transactions, and the named statements of sql/queries.

A statement has one name, the same in SQL and here: `SQL.claim_job` is the statement under `-- name: claim_job`.
"""

from __future__ import annotations

import _socket
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeVar, cast

import psycopg
from psycopg import postgres
from psycopg.adapt import AdaptersMap
from psycopg.pq import Format
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout

from kelpie_api.errors import ConnectionLost, RolledBack, SecretNamed, Unavailable, UserRemoved
from kelpie_api.json_text import read_json
from kelpie_api.outage_log import OutageLog
from kelpie_api.serving_threads import aside, is_serving

Row = dict[str, Any]
Result = TypeVar("Result")
SQL_FOLDER = Path(__file__).parent / "sql"  # in a checkout a link to the folder at the top
AWAY = "The database does not answer; the request was not carried out, so send it again in a moment."
TOO_SLOW = "The database gave the request up because it took too long; send it again in a moment."
CROSSED = "The request crossed another one and was not carried out; send it again in a moment."
READ_ONLY = (
    "The database takes no changes at the moment, as while a standby takes over, or with"
    " default_transaction_read_only; send it again in a moment."
)
LACKING = "The database is short of something ({what}), so this was not carried out; send it again in a moment."
UNSURE = "The database went away during the request; look whether it was carried out before you send it again."

# Rows that psycopg makes of what Postgres sent in one go, some 20 ms, in which no other thread runs.
ROWS_AT_ONCE = 500

# Seconds to wait for a connection; the second while the database is known to be away, so that waiting requests do
# not take all threads from those that need no database.
PATIENCE, IMPATIENCE = 3.0, 0.2
# Seconds in which no connection came back, after which one that is waited for may take long: the server may be
# frozen. So many requests may wait then, each in a thread that steps aside; further ones are refused at once.
STILL, MOST_WAITING = 0.25, 200

TRIES_OF_CROSSED = 4

# Seconds that a request's statement may take. Only the client can keep this limit when the server is frozen: its
# kernel still acknowledges everything, so no time-out of the network ever comes.
OVERDUE = 10.0


class Statements:
    """The named statements of a folder of .sql files and the folders in it, as attributes."""

    def __init__(self, folder: Path) -> None:
        self.by_name: dict[str, LiteralString] = {}
        for file in sorted(folder.rglob("*.sql")):
            for block in re.split(r"^-- name: ", file.read_text(), flags=re.MULTILINE)[1:]:
                name, _, text = block.partition("\n")
                if name in self.by_name:
                    raise ValueError(f"{file.name} names {name} a second time")
                # The files are part of the program, no input ever enters a statement's text.
                self.by_name[name] = cast("LiteralString", text.strip().rstrip(";"))

    def __getattr__(self, name: str) -> LiteralString:
        try:
            return self.by_name[name]
        except KeyError:
            raise AttributeError(f"no statement is named {name}") from None


SQL = Statements(SQL_FOLDER / "queries")


UNKNOWN_TYPE = 0  # the number of none


def adapters_of_binary_results() -> AdaptersMap:
    """psycopg's, but values of types that it does not know, such as our enums, are text in binary results, too."""
    adapters = AdaptersMap(psycopg.adapters)
    set_json_loads(read_json, adapters)
    text = adapters.get_loader(postgres.types["text"].oid, Format.BINARY)
    if text is None:
        raise RuntimeError("this psycopg has no loader for text")
    adapters.register_loader(UNKNOWN_TYPE, text)
    return adapters


# The encoding is part of the request for a connection, which comes before what the role or the database sets, and
# which PgBouncer keeps for each client.
HOW_TO_CONNECT: dict[str, Any] = {
    "autocommit": True,
    "prepare_threshold": None,
    "row_factory": dict_row,
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "application_name": "kelpie-2",  # the release before, which opens no sealed environment, is named kelpie
    "client_encoding": "UTF8",
    "context": adapters_of_binary_results(),
}


class Transaction:
    """Runs statements on one connection; rows are dicts.

    Results are binary: the text of a time or an interval depends on DateStyle, IntervalStyle and the like, which a
    role or a database may set, and which cannot be set for a session where PgBouncer stands in between.
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self.connection = connection

    def all(self, statement: LiteralString, **values: Any) -> list[Row]:
        cursor = self.connection.execute(statement, values, binary=True)
        rows: list[Row] = []
        while portion := cursor.fetchmany(ROWS_AT_ONCE):
            rows += portion
        return rows

    def one_or_none(self, statement: LiteralString, **values: Any) -> Row | None:
        return self.connection.execute(statement, values, binary=True).fetchone()

    def execute(self, statement: LiteralString, **values: Any) -> int:
        """Run a statement that returns no rows; the number of rows it touched."""
        return self.connection.execute(statement, values, binary=True).rowcount


def begin_as_written(connection: psycopg.Connection[Any]) -> None:
    """Have each `begin` ask for the isolation that the statements are written for; it costs no round trip.

    A role or a database may set another default.
    """
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED


def _of_foreign_key(constraint: str | None) -> SecretNamed | UserRemoved:
    """What a row is answered that refers to one which is gone, or the removal of one that is in use."""
    return SecretNamed() if constraint == "a_named_secret_is_there" else UserRemoved()


def what_became_of(error: psycopg.OperationalError | psycopg.InternalError) -> Unavailable | None:
    """What a failed request is answered; None if the error is a defect.

    Where Postgres says a reason, nothing was carried out, and the connection may be as good as before.
    """
    code = error.sqlstate or ""
    match code[:2], code:
        case _, "57014" | "25P04":  # statement_timeout, transaction_timeout
            return Unavailable(TOO_SLOW)
        case ("40", _) | (_, "55P03" | "25P03"):  # lock_timeout, idle_in_transaction_session_timeout
            return RolledBack(CROSSED)
        case "53", _:
            return Unavailable(LACKING.format(what=error.diag.message_primary))
    return ConnectionLost(UNSURE) if isinstance(error, psycopg.OperationalError) else None


def has_something_to_read(fileno: int) -> bool:
    """Whether a socket has bytes, its end or an error to read; costs one system call, and takes nothing."""
    look = select.poll()
    look.register(fileno, select.POLLIN)
    return bool(look.poll(0))


def next_byte(fileno: int) -> bytes | None:
    """The next byte that a socket has to read, without taking it; b"" at its end, None if there is none yet.

    Never waits, and costs one system call.
    """
    with closing(_socket.socket(fileno=os.dup(fileno))) as duplicate:
        try:
            return duplicate.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""


def shut_down(connection: psycopg.Connection[Any]) -> None:
    """Shut a connection down from another thread; the thread that waits on it gets an OperationalError."""
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class LivePool(ConnectionPool[psycopg.Connection[Row]]):
    """A pool that hands out no connection which the server has closed.

    The pool's own `check` pauses for one second after the second dead connection and for two after the third. So
    after a restart of Postgres the first request would be refused although a new connection takes milliseconds,
    and with a short idle_session_timeout each new connection would be closed during the pause.
    """

    def getconn(self, timeout: float | None = None) -> psycopg.Connection[Row]:
        """A connection, after at most `timeout` seconds. Raises PoolTimeout.

        A look at each costs a system call and no round trip. So after a restart of Postgres also a request that
        must not be sent twice, like a submission, gets a live connection.
        """
        due = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            connection = super().getconn(due - time.monotonic())
            # The server says nothing on an idle connection, unless it closes it.
            if not connection.closed and not has_something_to_read(connection.fileno()):
                return connection
            connection.close()
            self.putconn(connection)  # which has the pool make another one


class Database:
    """A pool of connections to Postgres.

    Connections are in autocommit: a single statement is its own transaction and costs one round trip.
    Statements are never prepared and no session state is kept, for PgBouncer may stand in between
    (docs/design/protocol.md, Operating).
    """

    def __init__(self, url: str, connections: int = 10) -> None:
        self.away = False  # the last request for a connection got none
        self.outage = OutageLog()
        self.due: dict[psycopg.Connection[Row], float] = {}  # connections in use: when they must be back
        self.last_back = 0.0  # when a connection came back (monotonic)
        # Not the pool's own limit: that also counts those that were refused since a connection last came back, and
        # while it is reached the pool makes no connection.
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self.url = url
        self.pool = LivePool(
            url,
            min_size=1,
            max_size=connections,
            open=False,
            configure=begin_as_written,
            # Short: the next request begins a new attempt, while the pool's own pauses double up to minutes.
            reconnect_timeout=5,
            kwargs=HOW_TO_CONNECT,
        )

    def open(self) -> None:
        self.pool.open()

    def close(self) -> None:
        self.pool.close()

    def connect(self) -> psycopg.Connection[Row]:
        """A connection outside of the pool, for threads that keep one for long."""
        return psycopg.Connection.connect(self.url, **HOW_TO_CONNECT)

    def why_away(self) -> str:
        """Why no connection can be made, as Postgres or the network says; AWAY if one can be made by now."""
        try:
            self.connect().close()
        except psycopg.Error as error:
            return str(error)
        return AWAY

    def all(self, statement: LiteralString, **values: Any) -> list[Row]:
        return self.repeatable(lambda tx: tx.all(statement, **values))

    def one_or_none(self, statement: LiteralString, **values: Any) -> Row | None:
        return self.repeatable(lambda tx: tx.one_or_none(statement, **values))

    def execute(self, statement: LiteralString, **values: Any) -> int:
        return self.repeatable(lambda tx: tx.execute(statement, **values))

    def repeatable(self, work: Callable[[Transaction], Result]) -> Result:
        """Do work that may be repeated, and repeat it once if the connection breaks.

        Dead connections are noticed when they are taken from the pool, so one retry is enough for a restart of
        Postgres. Raises Unavailable, UserRemoved.
        """
        try:
            return self.unrepeatable(work)
        except ConnectionLost:
            return self.unrepeatable(work)

    def unrepeatable(self, work: Callable[[Transaction], Result], limit: float = OVERDUE) -> Result:
        """Do work once, each statement in its own transaction; it is cut after `limit` seconds.

        Work that Postgres rolled back (a deadlock, a serialization failure) was not done, so it is repeated. So is
        what a migration changed beneath it; if that goes on, it is a defect.
        Raises Unavailable, ConnectionLost, UserRemoved.
        """
        for _ in range(TRIES_OF_CROSSED):
            try:
                return self._once(work, limit)
            except (RolledBack, psycopg.errors.DatatypeMismatch):
                # The second: a function waited for a migration that added a column to what it returns.
                continue
        return self._once(work, limit)

    def _once(self, work: Callable[[Transaction], Result], limit: float) -> Result:
        with self._connection(limit) as connection:
            return work(Transaction(connection))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Several statements, all or none."""
        with self._connection() as connection, connection.transaction():
            yield Transaction(connection)

    def cut_overdue(self, now: float) -> int:
        """Cut connections that are used for longer than allowed (a frozen server); return their number.

        `now` is monotonic, in seconds.
        """
        overdue = [connection for connection, due in list(self.due.items()) if due < now]
        for connection in overdue:
            if self.due.pop(connection, None) is not None:
                shut_down(connection)
        return len(overdue)

    @contextmanager
    def in_time(self, connection: psycopg.Connection[Row], limit: float = OVERDUE) -> Iterator[None]:
        """Have `cut_overdue` cut the connection if what is done on it takes longer than `limit` seconds."""
        self.due[connection] = time.monotonic() + limit
        try:
            yield
        finally:
            self.due.pop(connection, None)

    def _taken_from_pool(self) -> psycopg.Connection[Row]:
        if not self.away and time.monotonic() - self.last_back < STILL:
            return self.pool.getconn(PATIENCE)
        patience = IMPATIENCE if self.away else PATIENCE
        if not is_serving():
            return self.pool.getconn(patience)
        if not self._room.acquire(blocking=False):
            raise Unavailable(AWAY)
        try:
            with aside():  # so that the others learn of it at once, and those that need no database are served
                return self.pool.getconn(patience)
        finally:
            self._room.release()

    @contextmanager
    def _connection(self, limit: float = OVERDUE) -> Iterator[psycopg.Connection[Row]]:
        due = time.monotonic() + limit
        try:
            connection = self._taken_from_pool()
            try:
                self.away = False
                with self.in_time(connection, limit):
                    yield connection
                self.outage.back("pool")
            finally:
                self.last_back = time.monotonic()
                self.pool.putconn(connection)  # which rolls back what is open, or replaces a broken one
        except PoolTimeout as error:
            # If all connections are in use the database is not away, and the next request may wait as long.
            self.away = not self.due
            if self.away:
                self.outage.away("pool", self.why_away)
            raise Unavailable(AWAY) from error
        except psycopg.errors.ForeignKeyViolation as error:
            raise _of_foreign_key(error.diag.constraint_name) from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            self.pool.drain()  # these connections lead to the former primary; new ones lead to the current one
            raise Unavailable(READ_ONLY) from error
        except (psycopg.OperationalError, psycopg.InternalError) as error:
            answer = what_became_of(error)
            if answer is None:
                raise
            if isinstance(answer, ConnectionLost) and time.monotonic() >= due:
                raise Unavailable(UNSURE) from error  # we cut it: a second try would only wait as long again
            raise answer from error
