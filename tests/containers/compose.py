"""Kelpie in containers, brought up by the commands that the README gives, from a copy of the checkout."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import docker
import requests
from docker.models.containers import Container
from psycopg.conninfo import make_conninfo

from kelpie_api.db import Database
from local_stack.client import ApiClient
from local_stack.processes import CHECKOUT, free_port, wait_for
from tests.first_steps import blocks

((COPY, BUILD, UP, LOOK),) = blocks("Run it in containers")
# Whatever no clean checkout has. What the images must not have is left in.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", ".env", "kelpie-state.json"
)
# Settings of the shell that runs the tests, which would win over those of .env.
FOREIGN_SETTINGS = ("KELPIE_", "POSTGRES_", "SALAD_", "WEB_", "COMPOSE_", "PYTHON", "DEBIAN_", "DATABASE_URL")


@cache
def compose_command() -> tuple[str, ...] | None:
    """`docker compose`, or its older sister `docker-compose`."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


class Compose:
    """One project: the services of compose.yaml with settings of their own."""

    def __init__(self, folder: Path, images: Mapping[str, str]) -> None:
        self.folder = folder
        self.project = f"kelpie-test-{secrets.token_hex(4)}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.password = f"canary:p@ss/word#{secrets.token_hex(8)}"
        self.admin_key = f"canary-admin-{secrets.token_hex(8)}"
        self.secret_key = f"canary-secret-{secrets.token_hex(16)}"
        # The same for each run of one checkout: what did not change is not built again.
        tag = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]
        self.image = f"kelpie-test/coordinator:{tag}"
        self.python_image = images["PYTHON_IMAGE"]
        self._docker = docker.from_env()
        self._settings = {
            "POSTGRES_PASSWORD": f"'{self.password}'",  # a # begins a comment
            "KELPIE_SECRET_KEY": self.secret_key,
            "KELPIE_ADMIN_KEY": self.admin_key,
            "KELPIE_PUBLISH": f"127.0.0.1:{self.port}",
            "KELPIE_WEBHOOK_ALLOW_PRIVATE": "true",  # the receiver is on this machine
            "KELPIE_BUILD_NETWORK": "host",
            "KELPIE_IMAGE": self.image,
            "KELPIE_PROXY_IMAGE": f"kelpie-test/proxy:{tag}",
            **images,
        }

    def copy_checkout(self) -> None:
        shutil.copytree(CHECKOUT, self.folder, ignore=LEFT_OUT, symlinks=True)
        self.shell(COPY)
        written = self.folder / ".env"
        given = [line for line in written.read_text().splitlines() if line.split("=")[0] not in self._settings]
        filled_in = [f"{name}={value}" for name, value in self._settings.items()]
        written.write_text("".join(f"{line}\n" for line in given + filled_in))

    def run(self, arguments: str, env: Mapping[str, str] | None = None) -> None:
        """`docker compose ARGUMENTS`. Raises RuntimeError with all it said."""
        self.shell(f"docker compose {arguments}", env)

    def shell(self, commands: str, env: Mapping[str, str] | None = None) -> None:
        """Commands as the documents give them, for this project. Raises RuntimeError with all they said."""
        ours = " ".join([*(compose_command() or ()), "-p", self.project])
        settings = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
        done = subprocess.run(
            ["sh", "-ec", commands.replace("docker compose", ours)],
            cwd=self.folder,
            env=settings | dict(env or {}),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{commands}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")

    def remove(self) -> None:
        self.run("down --volumes --timeout 1")
        self._docker.close()

    def containers(self) -> dict[str, Container]:
        """By the service they belong to, also those that have ended."""
        found = self._docker.containers.list(
            all=True, filters={"label": f"com.docker.compose.project={self.project}"}
        )
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def execute(self, service: str, *command: str) -> tuple[int, str]:
        """Run a command inside: its exit code, and what it printed."""
        code, output = self.containers()[service].exec_run(list(command))
        return code, output.decode(errors="replace")

    def kill(self, service: str) -> None:
        self.containers()[service].kill()

    def start(self, service: str) -> None:
        self.containers()[service].start()

    def wait_until_healthy(self, service: str) -> None:
        def is_healthy() -> bool:
            container = self.containers()[service]
            return container.attrs["State"].get("Health", {}).get("Status") == "healthy"

        wait_for(is_healthy, f"{service} to be healthy", timeout=60)

    def look(self) -> None:
        """The README's look at it. Raises RuntimeError where the answer is no success."""
        self.shell(LOOK.replace("curl ", "curl --fail --noproxy '*' ").replace("http://localhost:8080", self.url))

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.answers("/readyz"), "the API to be ready", timeout=60)

    def answers(self, path: str) -> bool:
        """Whether a new connection through the proxy is answered with success."""
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(self.url + path, timeout=10).ok
            except requests.RequestException:
                return False

    def new_key(self, organization: str) -> str:
        admin = ApiClient(self.url, self.admin_key)
        return admin.create_key(admin.create_user(organization), organization, "default")

    @property
    def gateway(self) -> str:
        """The address under which the services reach this machine."""
        return str(self._network("webhooks", "default")["Gateway"])

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database as seen from this machine, which is the engine's host."""
        host = self._network("postgres", "database")["IPAddress"]
        opened = Database(
            make_conninfo(host=host, user="kelpie", dbname="kelpie", password=self.password), connections=4
        )
        opened.open()
        try:
            yield opened
        finally:
            opened.close()

    def _network(self, service: str, name: str) -> Mapping[str, str]:
        networks: Mapping[str, Mapping[str, str]] = self.containers()[service].attrs["NetworkSettings"]["Networks"]
        return networks[f"{self.project}_{name}"]
