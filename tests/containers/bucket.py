"""An S3 server in a container, on a network of its own: workers may be cut off from it and keep their API."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import docker
from docker.models.networks import Network

from local_stack.processes import free_port, wait_for
from local_stack.s3 import S3Server

PORT = 9000
PACKAGES = sysconfig.get_path("purelib")
MOTO = ["python3", "-m", "moto.server", "-H", "0.0.0.0", "-p", str(PORT)]
# Its objects are files, which outlive it; its listings show no conditions, and so do its answers.
RCLONE = ["rclone", "serve", "s3", "--addr", f":{PORT}", "--auth-key", "local,local-secret"]


class BucketServer(S3Server):
    """moto's server in an image with Python, or with `folder` rclone's, which keeps the objects there.

    To the workers it is `http://s3:9000`, to this machine `url`.
    """

    def __init__(self, image: str, network: Network, folder: Path | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.survives_a_kill = folder is not None
        self._docker = docker.from_env()
        self._container = self._docker.containers.create(
            image,
            [*RCLONE, "--vfs-cache-mode", "off", "/objects"] if folder else MOTO,
            environment={"PYTHONPATH": "/packages"},
            ports={f"{PORT}/tcp": ("127.0.0.1", self.port)},
            volumes=rclone_and(folder) if folder else {PACKAGES: {"bind": "/packages", "mode": "ro"}},
        )
        network.connect(self._container, aliases=["s3"])

    @property
    def seen_by_workers(self) -> dict[str, str]:
        return {**self.environment, "AWS_ENDPOINT_URL": f"http://s3:{PORT}"}

    def start(self) -> None:
        self._container.start()
        wait_for(self._answers, "the S3 server to answer", timeout=90)

    def kill(self) -> None:
        self._container.kill()

    def pause(self) -> None:
        self._container.pause()

    def unpause(self) -> None:
        self._container.unpause()

    def stop(self) -> None:
        self._container.remove(force=True)
        self._docker.close()


def rclone_and(folder: Path) -> dict[str, dict[str, str]]:
    program = shutil.which("rclone")
    assert program, "rclone must be in the PATH"
    return {program: {"bind": "/usr/bin/rclone", "mode": "ro"}, str(folder): {"bind": "/objects", "mode": "rw"}}
