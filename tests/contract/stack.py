"""A live coordinator: gunicorn and the webhook sender, with a database of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests

from local_stack.processes import CHECKOUT, Child, free_port, scratch_folder, wait_until_ready
from tests.contract.client import Api, expect, unique

SETTINGS_OF_THE_SHELL = ("DATABASE_URL", "GUNICORN_", "KELPIE_", "SALAD_", "WEB_")
ADMIN_KEY = "contract-administrators-key"
WEB_PROCESSES = 2


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's, with exactly these settings of Kelpie."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_OF_THE_SHELL)}
    return {
        **inherited,
        "PYTHONPATH": str(CHECKOUT),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **settings,
    }


def run_script(name: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "scripts" / name)],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


@dataclass
class Stack:
    url: str
    database_url: str
    folder: Path
    session: requests.Session
    settings: Mapping[str, str]
    admin: Api = field(init=False)

    def __post_init__(self) -> None:
        self.admin = self.caller({"X-Kelpie-Key": ADMIN_KEY})

    def caller(self, headers: Mapping[str, str]) -> Api:
        return Api(self.url, self.session, headers)

    def new_user(self) -> User:
        username = unique("user")
        user = expect(201, self.admin.post("/users", {"username": username})).json
        return User(self, str(user["id"]), username)

    def new_api(self) -> Api:
        """A caller with a user of its own."""
        return self.new_user().api()

    def log(self) -> str:
        return "".join(file.read_text(errors="replace") for file in self.folder.glob("*.log"))


@dataclass(frozen=True)
class User:
    stack: Stack
    id: str
    username: str

    def key(self, organization: str = "acme", project: str = "default") -> str:
        names = {"org_name": organization, "project_name": project}
        return str(expect(201, self.stack.admin.post(f"/users/{self.id}/token", names)).json["token"])

    def api(self, project: str = "default") -> Api:
        return self.stack.caller({"X-Kelpie-Key": self.key(project=project)})


@contextmanager
def running(database_url: str, settings: Mapping[str, str], session: requests.Session) -> Iterator[Stack]:
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "DATABASE_URL": database_url,
        "KELPIE_ADMIN_KEY": ADMIN_KEY,
        "KELPIE_SECRET_KEY": "a secret of the contract's tests, long enough",
        **settings,
    }
    migrated = run_script("migrate", settings)
    assert migrated.returncode == 0, migrated.stderr
    with scratch_folder() as folder:
        stack = Stack(url, database_url, folder, session, settings)
        children = [start_sender(stack), start_gunicorn(stack)]
        try:
            wait_until_ready(children[-1], lambda: is_ready(stack))
            yield stack
        finally:
            for child in children:
                child.kill()


def start_gunicorn(stack: Stack) -> Child:
    options = {"config": CHECKOUT / "gunicorn.conf.py", "bind": stack.url.removeprefix("http://")}
    flags = [f"--{name}={value}" for name, value in {**options, "workers": WEB_PROCESSES}.items()]
    program = [sys.executable, "-m", "gunicorn", *flags, "wsgi:app"]
    return Child("api", program, folder=stack.folder, env=environment(stack.settings))


def start_sender(stack: Stack) -> Child:
    program = [sys.executable, str(CHECKOUT / "scripts" / "webhooks")]
    return Child("webhooks", program, folder=stack.folder, env=environment(stack.settings))


def is_ready(stack: Stack) -> bool:
    try:
        return stack.admin.get("/readyz").status == 200
    except requests.ConnectionError:
        return False
