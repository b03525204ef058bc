"""A worker that behaves as the original's does towards the API and the bucket, as a program.

    python -m tests.doubles.original_worker

It takes jobs of the legacy fields only, knows no extension of the API (no attempt, no claim id, no release), posts
JSON as text/plain, and sends each file by itself as soon as it has changed. Its settings are the original's
environment variables. An answer that is no success ends it.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import boto3
import requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LOOK_EVERY = 0.1  # seconds


class OriginalWorker:
    """One worker; `work` never returns."""

    def __init__(self) -> None:
        self._api = os.environ["KELPIE_API_URL"]
        self._place = {
            "machine_id": os.environ["SALAD_MACHINE_ID"],
            "container_group_id": os.environ["SALAD_CONTAINER_GROUP_ID"],
        }
        self._key = {"X-Kelpie-Key": os.environ["KELPIE_API_KEY"]}
        self._s3: S3Client = boto3.client("s3", region_name=os.environ["AWS_REGION"])
        self._seen: dict[Path, tuple[int, int]] = {}

    def work(self) -> None:
        while True:
            for job in self._call("GET", f"/work?{urlencode(self._place)}"):
                self._run(job)
            time.sleep(LOOK_EVERY)

    def _run(self, job: dict[str, Any]) -> None:
        self._seen.clear()
        for kind in ("input", "checkpoint"):
            self._download(job, kind)
        _directory("output").mkdir(exist_ok=True)
        command = subprocess.Popen([job["command"], *job["arguments"]], env={**os.environ, **job["environment"]})
        beats = threading.Event()
        threading.Thread(target=self._beat, args=(job, beats), daemon=True).start()
        while command.poll() is None:
            self._upload_changes(job, "checkpoint")
            time.sleep(LOOK_EVERY)
        for kind in ("checkpoint", "output"):
            self._upload_changes(job, kind)
        beats.set()
        self._call("POST", f"/jobs/{job['id']}/{'failed' if command.returncode else 'completed'}", self._place)

    def _beat(self, job: dict[str, Any], ended: threading.Event) -> None:
        while not ended.wait(job["heartbeat_interval"]):
            self._call("POST", f"/jobs/{job['id']}/heartbeat", self._place)

    def _download(self, job: dict[str, Any], kind: str) -> None:
        _directory(kind).mkdir(exist_ok=True)
        bucket, prefix = job[f"{kind}_bucket"], job[f"{kind}_prefix"]
        for item in self._s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
            content = self._s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            path = _directory(kind) / item["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".gz" and job["compression"]:
                path, content = path.with_suffix(""), gzip.decompress(content)
            path.write_bytes(content)
            self._seen[path] = _version(path)

    def _upload_changes(self, job: dict[str, Any], kind: str) -> None:
        for path in [path for path in _directory(kind).rglob("*") if path.is_file()]:
            version = _version(path)
            if self._seen.get(path) != version:
                self._upload(job, kind, path)
                self._seen[path] = version

    def _upload(self, job: dict[str, Any], kind: str, path: Path) -> None:
        key = job[f"{kind}_prefix"] + str(path.relative_to(_directory(kind)))
        where: Any = {"Bucket": job[f"{kind}_bucket"], "Key": key}
        content = path.read_bytes()
        if job["compression"]:
            where |= {"Key": f"{key}.gz", "ContentEncoding": "gzip"}
            content = gzip.compress(content)
        self._s3.put_object(**where, Body=content)

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        headers = self._key | ({"Content-Type": "text/plain"} if body else {})
        answer = requests.request(
            method, self._api + path, data=json.dumps(body) if body else None, headers=headers, timeout=10
        )
        answer.raise_for_status()
        return answer.json()


def _directory(kind: str) -> Path:
    return Path(os.environ[f"{kind.upper()}_DIR"])


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


if __name__ == "__main__":
    OriginalWorker().work()
