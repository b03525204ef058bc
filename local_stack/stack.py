"""The whole of Kelpie as real processes on this machine: database, bucket, API, webhook sender, workers.

    with scratch_folder() as root, LocalStack(root) as stack:
        worker = stack.start_worker("machine-1")
        job = stack.client.submit({"command": "true", "container_group_id": stack.group})

All files are in one folder; all processes end with the stack, or with this process. Start and restart parts from
the main thread only (see `processes.Child`).
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from local_stack.client import ApiClient
from local_stack.postgres import EmbeddedPostgres
from local_stack.processes import CHECKOUT, Child, free_port, kill_all_in, processes_in, wait_for, wait_until_ready
from local_stack.s3 import S3Server

# Settings of the shell that starts the stack must not reach its programs.
FOREIGN_SETTINGS = ("AWS_", "DATABASE_URL", "FILE_WATCHER_", "GUNICORN_", "KELPIE_", "MAX_", "SALAD_", "WEB_")
NO_METADATA_SERVICE = "http://127.0.0.1:9"


class LocalStack:
    """A context manager; `database_url` replaces the embedded Postgres, which is None then.

    `settings` are more environment variables of the coordinator. `upload_rate` (bytes per second and request)
    makes uploads slow enough to be interrupted. `worker_process` is what starts the worker of a machine.
    """

    group = "local-group"

    def __init__(
        self,
        root: Path,
        *,
        database_url: str | None = None,
        upload_rate: int | None = None,
        web_processes: int = 2,
        settings: Mapping[str, str] | None = None,
        worker_process: type[Child] = Child,
    ) -> None:
        self.root = root
        self.s3 = S3Server(root, upload_rate)
        self.postgres = None if database_url else EmbeddedPostgres(root / "postgres")
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.admin_key = secrets.token_urlsafe(24)
        self.user_key = ""
        self.workers: list[Worker] = []
        self._database_url = database_url
        self._web_processes = web_processes
        self._worker_process = worker_process
        self._settings = settings or {}
        self._secret_key = secrets.token_urlsafe(32)
        self._api: Child | None = None
        self._at_exit = ExitStack()

    def __enter__(self) -> "LocalStack":
        try:
            self._start()
        except BaseException:
            self._at_exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_exit.close()

    def _start(self) -> None:
        self._at_exit.callback(kill_all_in, self.root)  # called last: kills what the others left running
        self._at_exit.callback(self.s3.stop)
        self.s3.start()
        if self.postgres is not None:
            self._at_exit.callback(self.postgres.stop, immediate=True)
            self.postgres.start()
        self._migrate()
        self._at_exit.callback(self.kill_api)
        self.start_api()
        self._start_webhook_sender()
        self.user_key = self.new_user_key("local-organization", "local-project")
        self._at_exit.callback(self._kill_workers)

    @property
    def client(self) -> ApiClient:
        return ApiClient(self.api_url, self.user_key)

    def start_api(self) -> None:
        """Start the API, after `kill_api` at the same address."""
        options = {
            "config": "python:kelpie_api.gunicorn_conf",
            "bind": self.api_url.removeprefix("http://"),
            "workers": self._web_processes,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        self._api = Child(
            "api",
            [sys.executable, "-m", "gunicorn", *flags, "kelpie_api.wsgi:app"],
            folder=self.root,
            env=self.coordinator_environment(),
            death_signal=signal.SIGTERM,
        )
        wait_until_ready(self._api, ApiClient(self.api_url, "").is_ready)

    def kill_api(self) -> None:
        """SIGKILL for gunicorn and all its web processes."""
        if self._api is not None:
            self._api.kill()
            self._api = None

    def start_worker(
        self, machine_id: str, settings: Mapping[str, str] | None = None, module: str = "kelpie_worker"
    ) -> "Worker":
        """A new machine with an empty disk and a worker on it.

        `settings`: more environment variables. `module`: the program, if it is another worker than Kelpie's.
        """
        environment = {**self._worker_environment(machine_id), **(settings or {})}
        worker = Worker(machine_id, self.root, environment, module, self._worker_process)
        self.workers.append(worker)
        worker.start()
        return worker

    def _migrate(self) -> None:
        migrated = subprocess.run(
            [sys.executable, "-m", "kelpie_api", "migrate"],
            env=self.coordinator_environment(),
            capture_output=True,
            text=True,
        )
        if migrated.returncode != 0:
            raise RuntimeError(f"The migrations failed:\n{migrated.stdout}{migrated.stderr}")

    def _start_webhook_sender(self) -> None:
        sender = Child(
            "webhooks",
            [sys.executable, "-m", "kelpie_api", "webhooks"],
            folder=self.root,
            env=self.coordinator_environment(),
        )
        self._at_exit.callback(sender.kill)

    def new_user_key(self, organization: str, project: str) -> str:
        """Create a user; returns its API key."""
        admin = ApiClient(self.api_url, self.admin_key)
        return admin.create_key(admin.create_user(f"local-{secrets.token_hex(4)}"), organization, project)

    def sign_in_address(self) -> str:
        """An address at which a browser of this machine is signed in at the pages, once, with the user's key."""
        made = subprocess.run(
            [sys.executable, "-m", "local_stack.invitation"],
            env={**self.coordinator_environment(), "KELPIE_API_KEY": self.user_key},
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise RuntimeError(f"No address could be made that signs in:\n{made.stderr}")
        return f"{self.api_url}/ui/once#{made.stdout.strip()}"

    def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.crash()

    def coordinator_environment(self) -> dict[str, str]:
        database_url = self.postgres.url if self.postgres else self._database_url
        return {
            **own_environment(),
            "DATABASE_URL": str(database_url),
            "KELPIE_SECRET_KEY": self._secret_key,
            "KELPIE_ADMIN_KEY": self.admin_key,
            "KELPIE_ONE_TIME_SIGN_IN": "true",
            "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true",  # the receivers of the demo and the tests are on this machine
            **self._settings,
        }

    def _worker_environment(self, machine_id: str) -> dict[str, str]:
        return {
            **own_environment(),
            **self.s3.environment,
            "KELPIE_API_URL": self.api_url,
            "KELPIE_API_KEY": self.user_key,
            "SALAD_MACHINE_ID": machine_id,
            "SALAD_CONTAINER_GROUP_ID": self.group,
            "SALAD_IMDS_URL": NO_METADATA_SERVICE,
            "HEARTBEAT_INTERVAL_S": "1",
        }


class Worker:
    """A machine with one worker on it.

    Its disk is a folder; its logs are elsewhere, so that they outlive the disk.
    """

    def __init__(
        self,
        machine_id: str,
        root: Path,
        environment: Mapping[str, str],
        module: str = "kelpie_worker",
        process: type[Child] = Child,
    ) -> None:
        self.machine_id = machine_id
        self._module = module
        self._process = process
        self.disk = root / machine_id
        self.output = root / f"{machine_id}.out"
        self.log = root / f"{machine_id}.log"
        self._root = root
        self._environment = {
            **environment,
            "KELPIE_STATE_FILE": str(self.disk / "kelpie-state.json"),
            "KELPIE_RUNTIME_DIR": str(root / f"{machine_id}.run"),
            **{f"{name}_DIR": str(self.disk / name.lower()) for name in ("INPUT", "CHECKPOINT", "OUTPUT")},
        }
        self._child: Child | None = None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def start(self) -> None:
        """Start the worker, after `crash` with the same machine id and disk."""
        self.disk.mkdir(exist_ok=True)
        self._child = self._process(
            self.machine_id,
            [sys.executable, "-m", self._module],
            folder=self._root,
            cwd=self.disk,
            env=self._environment,
        )

    def stop(self) -> int:
        """Send SIGTERM; returns the exit code."""
        if self._child is None:
            raise RuntimeError(f"{self.machine_id} is not running")
        self._child.stop(signal.SIGTERM, timeout=40)
        return self._child.wait(0)

    def crash(self) -> None:
        """SIGKILL for the worker, its children and its command; the disk stays."""
        if self._child is not None:
            self._child.kill()
            self._child = None
            wait_for(lambda: not processes_in(self.disk), f"everything on {self.machine_id} to end")

    def vanish(self) -> None:
        """SIGKILL, and the disk is deleted, as when a machine is lost."""
        self.crash()
        shutil.rmtree(self.disk)


def own_environment() -> dict[str, str]:
    """This process's environment without settings of Kelpie, and with no proxy for requests to this machine."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    return {**inherited, "PYTHONPATH": str(CHECKOUT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
