"""A job as a person says it, made into the definition that the coordinator takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kelpie.errors import DefinitionError

KEPT_OUTPUT = 65536  # bytes of the end of each attempt's output, unless said otherwise
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")
BUCKET_URL = re.compile(r"s3://([^/]+)(?:/(.*))?", re.DOTALL)
# The extension that a coordinator announces if it knows these fields.
EXTENSION_OF = {
    "name": "names",
    "labels": "names",
    "priority": "names",
    "webhook_events": "names",
    "max_runtime": "limits",
    "max_attempt_runtime": "limits",
    "max_attempts": "limits",
    "max_fruitless_attempts": "limits",
    "retry": "limits",
    "stall_after": "limits",
    "on_stall": "limits",
    "checkpoint_signal": "steer",
    "keep_output": "output",
    "depends_on": "depends",
    "depends_if": "depends",
    "sweep": "sweeps",
    "secrets": "secrets",
}

Folders = Mapping[str, str]  # a local directory, and the s3:// address that it is kept at


def seconds(value: str | int | float) -> int:
    """A duration such as `30s`, `2h` or `1.5d` in seconds; a bare number is of seconds. Raises DefinitionError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value)
    found = DURATION.fullmatch(str(value).strip().lower())
    if not found:
        raise DefinitionError(f"A duration looks like 30s, 45m, 2h or 1.5d, and this is {value!r}.")
    return int(float(found[1]) * UNITS[found[2] or "s"])


def place(url: str) -> tuple[str, str]:
    """Bucket and prefix of an s3:// address. Raises DefinitionError."""
    found = BUCKET_URL.fullmatch(url)
    if not found or not (found[2] or "").strip("/"):
        raise DefinitionError(f"A place looks like s3://bucket/prefix, with a prefix, and this is {url!r}.")
    prefix = found[2]
    return found[1], prefix if prefix.endswith("/") else f"{prefix}/"


def block(directory: str, url: str, direction: str) -> dict[str, str]:
    bucket, prefix = place(url)
    return {"bucket": bucket, "prefix": prefix, "local_path": directory, "direction": direction}


def sync_of(
    checkpoint: Folders | None = None, input: Folders | None = None, output: Folders | None = None
) -> dict[str, list[dict[str, str]]]:
    """The sync blocks: a checkpoint is brought before the command and kept while it runs."""
    before = [block(path, url, "download") for path, url in {**(input or {}), **(checkpoint or {})}.items()]
    during = [block(path, url, "upload") for path, url in (checkpoint or {}).items()]
    after = [block(path, url, "upload") for path, url in (output or {}).items()]
    parts = {"before": before, "during": during, "after": after}
    return {name: blocks for name, blocks in parts.items() if blocks}


def definition(
    command: Sequence[str] | str,
    *,
    group: str | None,
    checkpoint: Folders | None = None,
    input: Folders | None = None,
    output: Folders | None = None,
    environment: Mapping[str, str] | None = None,
    max_runtime: str | int | None = None,
    max_attempt_runtime: str | int | None = None,
    stall_after: str | int | None = None,
    heartbeat_interval: str | int | None = None,
    sync: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The definition of a job; `fields` are sent as they are, those that are None not at all.

    Raises DefinitionError.
    """
    words = [command] if isinstance(command, str) else [str(word) for word in command]
    if not words or not words[0]:
        raise DefinitionError("A job needs a command, for example: kelpie submit -- python train.py")
    if sync is not None and (checkpoint or input or output):
        raise DefinitionError("A job has either sync blocks or checkpoint, input and output; take one of the two.")
    made: dict[str, Any] = {"command": words[0], "arguments": words[1:], "container_group_id": group}
    if environment:
        made["environment"] = {name: str(value) for name, value in environment.items()}
    made["sync"] = dict(sync) if sync is not None else sync_of(checkpoint, input, output)
    durations = {
        "max_runtime": max_runtime,
        "max_attempt_runtime": max_attempt_runtime,
        "stall_after": stall_after,
        "heartbeat_interval": heartbeat_interval,
    }
    made |= {name: seconds(value) for name, value in durations.items() if value is not None}
    made |= {name: value for name, value in fields.items() if value is not None and value != {} and value != []}
    return made


def during_places(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a job keeps its checkpoints: bucket and prefix of each block."""
    blocks = (made.get("sync") or {}).get("during") or []
    return [(one.get("bucket", ""), one.get("prefix", "")) for one in blocks if isinstance(one, Mapping)]


def needed_extensions(made: Mapping[str, Any]) -> dict[str, str]:
    """The extensions that a definition needs, each with the field that needs it."""
    return {EXTENSION_OF[name]: name for name in made if name in EXTENSION_OF}
