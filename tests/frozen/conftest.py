"""The worker as one file, kept until something that goes into it changes; and machines for it to run on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import CHECKOUT
from local_stack.s3 import S3Server
from tests.conftest import docker_answers
from tests.containers.conftest import base_image, cannot
from tests.doubles.coordinator import FakeCoordinator
from tests.frozen.machine import Machine

BUILT = CHECKOUT / "build" / "frozen"
INGREDIENTS = [
    "LICENSE",
    "kelpie_version.py",
    "kelpie_worker/**/*.py",
    "packaging/*",
    "requirements/freeze.txt",
    "scripts/freeze",
]
# An old user's image and a new one: the setting, the stand-in where no registry is reached, the official one.
IMAGES = {
    "bullseye": ("KELPIE_TEST_OLD_DEBIAN_IMAGE", "kelpie-test/debian:bullseye", "debian:bullseye-slim"),
    "bookworm": ("KELPIE_TEST_DEBIAN_IMAGE", "kelpie-test/debian:bookworm", "debian:bookworm-slim"),
}


def fingerprint(image: str) -> str:
    digest = hashlib.sha256(image.encode())
    for path in sorted(path for pattern in INGREDIENTS for path in CHECKOUT.glob(pattern)):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def binary() -> Path:
    """`scripts/freeze` made it, in a container."""
    if not docker_answers():
        cannot("Docker does not answer.")
    asked = os.environ.get("KELPIE_TEST_PYTHON_IMAGE")
    image = base_image(asked, "kelpie-test/python:3.11", "python:3.11-slim")
    target = BUILT / fingerprint(image) / "kelpie"
    BUILT.parent.mkdir(exist_ok=True)
    with (BUILT.parent / "frozen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests of containers run beside the others, and both want it
        if not target.exists():
            shutil.rmtree(BUILT, ignore_errors=True)  # of older ingredients
            freeze_to(target, image)
    return target


def freeze_to(target: Path, image: str) -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts" / "freeze", target.with_name("new")],
        env={**os.environ, "PYTHON_IMAGE": image},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    target.with_name("new.cdx.json").rename(target.with_name("kelpie.cdx.json"))
    target.with_name("new").rename(target)


@pytest.fixture(params=list(IMAGES))
def image(request: pytest.FixtureRequest) -> str:
    return image_of(request.param)


@pytest.fixture
def old_image() -> str:
    return image_of("bullseye")


def image_of(release: str) -> str:
    setting, *known = IMAGES[release]
    return base_image(os.environ.get(setting), *known)


@pytest.fixture
def make_machine(
    binary: Path,
    s3: S3Server,
    coordinator: FakeCoordinator,
) -> Iterator[Callable[..., Machine]]:
    """Machines whose environment has the worker's settings, and what the keyword `environment` adds."""
    made: list[Machine] = []

    def make(image: str, *, environment: dict[str, str] | None = None, **more: Any) -> Machine:
        settings = {
            "KELPIE_API_URL": coordinator.url,
            "KELPIE_API_KEY": "a-key-that-nobody-logs",
            "SALAD_CONTAINER_GROUP_ID": "group",
            "SALAD_MACHINE_ID": "machine",
            "HEARTBEAT_INTERVAL_S": "0.2",
            **s3.environment,
            **(environment or {}),
        }
        made.append(Machine(image, binary, settings, **more))
        return made[-1]

    yield make
    for machine in made:
        machine.remove()
