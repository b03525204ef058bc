"""The Idempotency-Key of a request (docs/design/protocol.md, Idempotency)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flask import request

from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.web.body import request_json, whole_body
from kelpie_api.web.context import TEXT

REPLAYED = {"Idempotent-Replayed": TEXT}


def key_of_request(headers: dict[str, Any]) -> IdempotencyKey | None:
    """The key of a change of jobs that are there; with another path it is the key of another request."""
    key = headers["idempotency_key"]
    return IdempotencyKey(key, hashlib.sha256(request.path.encode() + digest_of_body()).digest()) if key else None


def digest_of_body() -> bytes:
    """A digest of the body's JSON value, whatever its layout; a batch is a list, so no body fits both routes.

    A body that may be left out, and is, says what an empty object says.
    """
    value = request_json() if whole_body() else {}
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()
