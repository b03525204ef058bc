"""gunicorn's worker as it is changed here: what it does where threads, files or clients are lacking."""

from __future__ import annotations

import http.client
import logging
import os
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn

from bench.api import served
from kelpie_api.db import Database
from kelpie_api.web.gunicorn_worker import MOST_KEPT, OTHER_FILES, STOP_KEEPALIVE_LINGER, Worker, was_read_ahead
from kelpie_api.web.kept_connections import KeptConnections
from local_stack.processes import Child, processes_in_session, wait_for
from tests.doubles.plain_server import make_certificate

THREADS = 3


@dataclass
class Server:
    """A gunicorn with one process of few threads."""

    child: Child
    port: int
    connections: ExitStack = field(default_factory=ExitStack)

    @property
    def worker(self) -> int:
        [worker] = set(processes_in_session(self.child.pid)) - {self.child.pid}
        return worker

    def files(self) -> list[int]:
        return sorted(int(entry.name) for entry in Path(f"/proc/{self.worker}/fd").iterdir())

    def ask(self, path: str) -> http.client.HTTPConnection:
        """Send a request; its answer is for the caller to read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.connections.callback(connection.close)
        connection.request("GET", path)
        return connection

    def hold(self) -> http.client.HTTPConnection:
        """Send a request that is answered when the process is to end, and wait until it is served."""
        before = self.child.output.read_text().count("held")
        connection = self.ask("/hold")
        wait_for(lambda: self.child.output.read_text().count("held") > before, "the request to be served")
        return connection


@contextmanager
def started(app_url: str, folder: Path) -> Iterator[Server]:
    options = (f"--threads={THREADS}", "--graceful-timeout=20")
    with served(app_url, folder, "tests.doubles.held_app:app", "/", {"WEB_CONCURRENCY": "1"}, *options) as (
        child,
        port,
    ):
        server = Server(child, port)
        with server.connections:
            yield server


@pytest.fixture
def server(app_url: str, db: Database, tmp_path: Path) -> Iterator[Server]:
    with started(app_url, tmp_path) as server:
        yield server


def answer_to(connection: http.client.HTTPConnection) -> bytes:
    return connection.getresponse().read()


def test_requests_that_wait_for_a_thread_are_answered_before_the_process_ends(server: Server) -> None:
    """Every thread is busy for longer than a process that ends keeps idle connections."""
    held = [server.hold() for _ in range(THREADS)]
    before = len(server.files())
    waiting = [server.ask("/waits") for _ in range(5)]
    wait_for(lambda: len(server.files()) >= before + len(waiting), "the connections to be accepted")
    server.child.stop(timeout=25)
    assert [answer_to(connection) for connection in held] == [b"/hold"] * len(held)
    assert [answer_to(connection) for connection in waiting] == [b"/waits"] * len(waiting)


def test_without_room_for_another_connection_those_that_are_there_are_served(server: Server) -> None:
    held, worker = server.hold(), server.worker
    limits = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (max(server.files()) + 2, limits[1]))
    others = [server.ask("/other") for _ in range(8)]
    wait_for(lambda: "No further connection" in server.child.log.read_text(), "the log to tell")
    resource.prlimit(worker, resource.RLIMIT_NOFILE, limits)
    assert [answer_to(connection) for connection in others] == [b"/other"] * len(others)
    assert server.child.log.read_text().count("No further connection") == 1
    server.child.stop(timeout=25)
    assert answer_to(held) == b"/hold"


def test_a_process_may_open_a_file_for_each_connection(app_url: str, db: Database, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))  # as systemd and Docker set it
        server = stack.enter_context(started(app_url, tmp_path))
        assert resource.prlimit(server.worker, resource.RLIMIT_NOFILE)[0] == min(
            limits[1], 1164 + OTHER_FILES + MOST_KEPT
        )


def test_a_request_that_ends_its_thread_ends_no_other(server: Server) -> None:
    for _ in range(2 * THREADS):
        with pytest.raises((http.client.HTTPException, OSError)):
            answer_to(server.ask("/exit"))
    assert answer_to(server.ask("/other")) == b"/other"


def test_clients_that_leave_it_to_themselves_to_close_take_no_threads_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What gunicorn waits for when it closes a connection: seconds, at the other end of the world."""
    worker, said = Worker.__new__(Worker), []

    @contextmanager
    def aside() -> Iterator[None]:
        said.append("aside")
        yield
        said.append("back")

    monkeypatch.setattr("kelpie_api.web.gunicorn_worker.aside", aside)
    monkeypatch.setattr(worker, "handle", lambda connection: False, raising=False)
    monkeypatch.setattr(worker, "_count_closed", lambda: None)
    connection = SimpleNamespace(timeout=0.0, close=lambda graceful: said.append(f"closed {graceful}"))
    worker._serve_connection(connection)
    assert said == ["aside", "closed True", "back"]


def test_a_client_that_vanishes_in_the_middle_of_a_request_is_looked_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        ports = [f"{number:04X}" for number in (server.port, client.getsockname()[1])]
        wait_for(lambda: timer_of(*ports) == "02", "the timer that sends probes")  # tcp(7), SO_KEEPALIVE


def timer_of(*ports: str) -> str | None:
    """The kind of timer that a connection between two ports of this machine has now."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        if [local.partition(":")[2], remote.partition(":")[2]] == list(ports):
            return timer.partition(":")[0]
    return None


# --- step by step -----------------------------------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(1, os.getppid(), [], None, 30, Config(), logging.getLogger("gunicorn.error"))
    worker.keepalived_conns = KeptConnections[Any]()
    worker.serving = worker._threads()
    yield worker
    worker.tmp.close()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_process_that_had_no_room_for_its_first_thread_tries_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_thread)
        worker.notify()
    assert len(worker.serving) == 0
    worker.notify()
    assert len(worker.serving) == 1


def test_a_connection_that_is_put_back_while_the_process_begins_to_end_does_not_delay_that(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = SimpleNamespace(timeout=0.0, sock=None, parser=SimpleNamespace(unreader=SimpleNamespace(buf=Empty())))
    conn.set_timeout = lambda: setattr(conn, "timeout", float("inf"))
    monkeypatch.setattr(worker, "handle", lambda _: True)
    # By now the main thread may have gone through all that are kept, to have them end soon.
    monkeypatch.setattr(worker.keepalived_conns, "put", lambda _: setattr(worker, "alive", False))
    worker._serve_connection(conn)
    assert conn.timeout < float("inf"), STOP_KEEPALIVE_LINGER


class Empty:
    def getvalue(self) -> bytes:
        return b""


def test_a_connection_that_was_idle_for_too_long_is_closed_without_a_word(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read from it, and find no end of TLS, would have TLS send its client an alert."""
    read: list[TConn] = []
    monkeypatch.setattr(worker, "handle", read.append)
    monkeypatch.setattr(worker, "_accepting", True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = TConn(Config(), ours, "", "")
        conn.timeout = 1.0
        worker.keepalived_conns.put(conn)
        worker.keepalived_conns.end_overdue(now=1.0)
        theirs.shutdown(socket.SHUT_WR)
        worker._serve_connection(worker.keepalived_conns.next_readable())
        assert not read and theirs.recv(1) == b"" and ours.fileno() < 0
        assert worker.nr_conns == -1, "it was not counted when it came"


def test_what_tls_has_read_ahead_is_seen(tmp_path: Path) -> None:
    """Of a record that holds more than was asked for, no system call tells any more."""
    secret, authority = make_certificate(tmp_path)
    at_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    at_server.load_cert_chain(secret)
    at_client = ssl.create_default_context(cafile=str(authority))
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool, ours, theirs:
        wrapped = pool.submit(at_client.wrap_socket, theirs, server_hostname="127.0.0.1")
        with at_server.wrap_socket(ours, server_side=True) as server, wrapped.result(10) as client:
            client.sendall(b"a request" + b"the next")
            conn = SimpleNamespace(sock=server, parser=RequestParser(Config(), server, ("127.0.0.1", 1)))
            assert not was_read_ahead(conn)
            assert server.recv(9) == b"a request"
            assert was_read_ahead(conn)
            assert server.recv(9) == b"the next"
            assert not was_read_ahead(conn)
