"""How many claims a second the API can serve: gunicorn as it is deployed, clients that keep their connections."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

from bench.harness import GROUP
from local_stack.processes import Child, free_port, wait_until_ready

ROOT = Path(__file__).resolve().parent.parent
CLIENT_PROCESSES, CLIENTS_A_PROCESS = 2, 8


@contextmanager
def gunicorn(url: str, folder: Path) -> Iterator[int]:
    """The API on a port of 127.0.0.1."""
    with serve(url, folder) as (_, port):
        yield port


@contextmanager
def serve(url: str, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[Child, int]]:
    """The API, its process and its port on 127.0.0.1; `more`: settings of its environment."""
    port = free_port()
    settings = {
        "DATABASE_URL": url,
        "KELPIE_SECRET_KEY": "the same whenever a benchmark starts on one database",
        "KELPIE_LOG_LEVEL": "warn",
        **(more or {}),
    }
    child = Child(
        "gunicorn",
        [
            sys.executable,
            "-m",
            "gunicorn",
            f"--config={ROOT / 'gunicorn.conf.py'}",
            f"--bind=127.0.0.1:{port}",
            "wsgi:app",
        ],
        folder=folder,
        env={**os.environ, **settings},
        cwd=ROOT,
    )
    try:
        wait_until_ready(child, lambda: is_ready(port))
        yield child, port
    finally:
        child.stop()


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def claims_a_second(url: str, key: str, seconds: float, folder: Path) -> float:
    """Claims answered with a job, a second, over all clients."""
    with gunicorn(url, folder) as port:
        # A warm-up, so that every process of gunicorn has started before the measurement.
        claim_for(port, key, seconds / 5)
        before, began = claimed(url), time.monotonic()
        context = multiprocessing.get_context("spawn")
        clients = [context.Process(target=claim_for, args=(port, key, seconds)) for _ in range(CLIENT_PROCESSES)]
        for client in clients:
            client.start()
        # The start of the clients does not count: the measurement begins with their first claim.
        while claimed(url) == before and any(client.is_alive() for client in clients):
            began = time.monotonic()
        for client in clients:
            client.join()
        took = time.monotonic() - began
        if any(client.exitcode for client in clients):
            raise RuntimeError("a client of the API failed; its error is printed above")
        return (claimed(url) - before) / took


def claimed(url: str) -> int:
    """How many claims have been answered with a job so far."""
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from attempts").fetchone()
    return int(found[0]) if found else 0


def claim_for(port: int, key: str, seconds: float) -> None:
    """Claim without a pause from several threads, each with its own connection."""
    failed: list[BaseException] = []
    deadline = time.monotonic() + seconds
    threads = [
        threading.Thread(target=claim_until, args=(port, key, deadline, number, failed))
        for number in range(CLIENTS_A_PROCESS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def claim_until(port: int, key: str, deadline: float, number: int, failed: list[BaseException]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    machine = f"machine-{os.getpid()}-{number}"
    try:
        while time.monotonic() < deadline:
            connection.request(
                "GET",
                f"/work?machine_id={machine}&container_group_id={GROUP}&claim_id={uuid4()}",
                headers={"X-Kelpie-Key": key},
            )
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200 or not body:
                raise RuntimeError(f"a claim was answered {answer.status}: {body}")
    except Exception as error:  # noqa: BLE001 - raised by the thread that joins this one
        failed.append(error)
    finally:
        connection.close()
