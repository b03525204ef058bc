"""scripts/pin-images, with a stand-in for Docker: no registry is reached here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from local_stack.processes import CHECKOUT

DOCKER = """#!/bin/sh
case "$1 $2" in
"pull --quiet") [ "$3" != "${UNKNOWN:-}" ] ;;
"image inspect") echo "$5@sha256:$(echo "$5" | sha256sum | cut -c1-64)" | sed 's/:[^@]*@/@/' ;;
esac
"""


@pytest.fixture
def pin(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return run(tmp_path)


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        [CHECKOUT / "scripts" / "pin-images"], env={"PATH": path, **environment}, capture_output=True, text=True
    )


def test_each_image_that_compose_may_be_given_is_printed_by_digest(pin: subprocess.CompletedProcess[str]) -> None:
    assert pin.returncode == 0, pin.stderr
    printed = dict(line.split("=", 1) for line in pin.stdout.splitlines())
    text = (CHECKOUT / "compose.yaml").read_text()
    defaults = dict(re.findall(r"\$\{(\w+_IMAGE):-([\w.:-]+)\}", text))
    ours = {service["image"] for service in yaml.safe_load(text)["services"].values() if "build" in service}
    foreign = {name: image for name, image in defaults.items() if f"${{{name}:-{image}}}" not in ours}
    assert printed.keys() == foreign.keys()
    for name, image in foreign.items():
        assert re.fullmatch(rf"{image.partition(':')[0]}@sha256:[0-9a-f]{{64}}", printed[name])


def test_other_images_are_pinned_as_they_are_named(tmp_path: Path) -> None:
    assert "PYTHON_IMAGE=mirror/python@sha256:" in run(tmp_path, PYTHON_IMAGE="mirror/python:3.12").stdout


def test_an_image_that_no_registry_gives_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, UNKNOWN="debian:bookworm-slim")
    assert done.returncode == 1
    assert done.stderr.startswith("pin-images: debian:bookworm-slim cannot be pulled")
