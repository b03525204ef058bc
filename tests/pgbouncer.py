"""A PgBouncer in transaction mode before the database of the tests, as operators have it
(docs/design/protocol.md, Operating)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from local_stack.postgres import unprivileged_account
from local_stack.processes import Child, free_port, scratch_folder, wait_until_ready

WHERE = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
SERVER_CONNECTIONS = 6  # fewer than the clients have, so that one client meets what another left in a session
asked_for = os.environ.get("KELPIE_TEST_PGBOUNCER", "") not in {"", "0"}


@contextmanager
def pgbouncer(server_url: str) -> Iterator[str]:
    """The address by which the database of `server_url` is reached through a PgBouncer."""
    program = find_program()
    server = conninfo_to_dict(server_url)
    port = free_port()
    with scratch_folder() as folder:
        account = unprivileged_account() if os.geteuid() == 0 else None
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": SERVER_CONNECTIONS,
            "max_client_conn": 500,
        }
        (folder / "users.txt").write_text(f'"{server["user"]}" "{server.get("password", "")}"\n')
        (folder / "pgbouncer.ini").write_text(
            "\n".join(
                [
                    "[databases]",
                    f"* = host={server.get('host', '127.0.0.1')} port={server.get('port', 5432)}",
                    "[pgbouncer]",
                    *(f"{name} = {value}" for name, value in settings.items()),
                ]
            )
        )
        if account is not None:
            for name in ("users.txt", "pgbouncer.ini"):
                os.chown(folder / name, account.uid, account.gid)
        child = Child("pgbouncer", [program, folder / "pgbouncer.ini"], folder=folder, account=account)
        url = make_conninfo(server_url, host="127.0.0.1", port=port)
        try:
            wait_until_ready(child, lambda: answers(url))
            yield url
        finally:
            child.stop()


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True


def find_program() -> Path:
    """Where PgBouncer is; installed where that is possible. A run that asked for it fails without it."""
    found = shutil.which("pgbouncer", path=WHERE) or (install() and shutil.which("pgbouncer", path=WHERE))
    if found:
        return Path(found)
    missing = "PgBouncer is not here and could not be installed. On Debian and Ubuntu: apt-get install pgbouncer"
    if asked_for:
        pytest.fail(missing)
    pytest.skip(missing)


def install() -> bool:
    """With Debian's package manager, which only root may use."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "pgbouncer"]):
        if subprocess.run(["apt-get", *arguments], env=env, capture_output=True).returncode != 0:
            return False
    return True
