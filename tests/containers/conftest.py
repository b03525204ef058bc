"""One stack of containers for all these tests. They are skipped where Docker, Compose or an image is missing;
where containers are asked for (`KELPIE_TEST_DATABASE=container`) that is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import NoReturn

import docker
import pytest
from docker.errors import ImageNotFound

from local_stack.processes import scratch_folder
from tests.conftest import docker_answers
from tests.containers.compose import BUILD, UP, Compose, compose_command

# The setting of compose.yaml, that of the tests, the stand-in where no registry is reached, the official one.
IMAGES = [
    ("PYTHON_IMAGE", "KELPIE_TEST_PYTHON_IMAGE", "kelpie-test/python:3.11", "python:3.11-slim"),
    ("POSTGRES_IMAGE", "KELPIE_TEST_POSTGRES_IMAGE", "kelpie-test/postgres:15", "postgres:17"),
    ("DEBIAN_IMAGE", "KELPIE_TEST_DEBIAN_IMAGE", "kelpie-test/debian:bookworm", "debian:bookworm-slim"),
]


def required() -> bool:
    return os.environ.get("KELPIE_TEST_DATABASE") == "container"


def cannot(reason: str) -> NoReturn:
    if required():
        pytest.fail(reason)
    pytest.skip(reason)


def is_here(image: str) -> bool:
    with closing(docker.from_env()) as client:
        try:
            client.images.get(image)
        except ImageNotFound:
            return False
    return True


def base_image(asked: str | None, stand_in: str, official: str) -> str:
    """Nothing is pulled from a registry unless containers are asked for."""
    for image in [asked] if asked else [stand_in, official]:
        if is_here(image):
            return image
    if not required():
        cannot(f"Docker has no image {asked or official}.")
    return asked or official


@pytest.fixture(scope="package")
def compose() -> Iterator[Compose]:
    """The checkout's copy, and nothing started yet."""
    if not docker_answers():
        cannot("Docker does not answer.")
    if compose_command() is None:
        cannot("There is neither `docker compose` nor `docker-compose`.")
    images = {name: base_image(os.environ.get(ours), *known) for name, ours, *known in IMAGES}
    with scratch_folder() as folder:
        project = Compose(folder / "kelpie", images)
        project.copy_checkout()
        try:
            yield project
        finally:
            project.remove()


@pytest.fixture(scope="package")
def built(compose: Compose) -> Compose:
    compose.shell(BUILD)
    return compose


@pytest.fixture(scope="package")
def running(built: Compose) -> Compose:
    built.shell(UP)
    built.wait_until_ready()
    built.look()
    return built


@pytest.fixture
def stack(running: Compose) -> Compose:
    """The stack with everything healthy, whatever the test before did."""
    for service in ("postgres", "api", "proxy"):
        running.wait_until_healthy(service)
    running.wait_until_ready()
    return running
