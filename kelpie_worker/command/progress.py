"""What a command says of its progress, as the coordinator takes it: small, finite, and without secrets."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from kelpie_worker.command.masking import mask
from kelpie_worker.limits import LARGEST_PROGRESS

_DEEPEST = 4  # levels of a document
_LARGEST_WHOLE = 2**53  # what every reader of JSON takes for a whole number
_LONGEST_MESSAGE = 500  # characters, where the document is too large
_FIRST = ("fraction", "step", "total", "message")  # what stays of a document that is too large

Document = Mapping[str, Any]


def presentable(told: Any, secrets: Collection[bytes]) -> dict[str, Any]:
    """The object of the wire for a document of the command: an object, or a number from 0 to 1.

    `fraction` is the command's own, else what `step` and `total` make. NaN and Infinity are null.
    """
    document = _plain(told if isinstance(told, dict) else {"fraction": told}, secrets, _DEEPEST)
    fraction = _fraction(document)
    document.pop("fraction", None)
    found = {**({} if fraction is None else {"fraction": fraction}), **document}
    return found if _size(found) <= LARGEST_PROGRESS else _shortened(found)


def with_lines(
    document: Document, percent: float | None, status: str | None, secrets: Collection[bytes]
) -> Document:
    """The document with what lines of the output say besides."""
    told: dict[str, Any] = {} if percent is None else {"fraction": percent / 100}
    if status is not None:
        told["message"] = status
    return presentable({**document, **told}, secrets)


def has_moved(before: Document, after: Document) -> bool:
    """Whether the step or the fraction changed; a message or a metric is no progress."""
    return any(before.get(name) != after.get(name) for name in ("step", "fraction"))


def _fraction(document: Document) -> float | None:
    own, step, total = (_number(document.get(name)) for name in ("fraction", "step", "total"))
    if own is None and step is not None and total is not None and total > 0:
        own = step / total
    return None if own is None else min(max(own, 0.0), 1.0)


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any, secrets: Collection[bytes], levels: int) -> Any:
    """The value as every coordinator takes it."""
    match value:
        case bool() | None:
            return value
        case str():
            return _text(value, secrets)
        case int() if abs(value) <= _LARGEST_WHOLE:
            return value
        case int() | float():
            return _finite(value)
        case dict() if levels > 0:
            return {_text(name, secrets): _plain(inner, secrets, levels - 1) for name, inner in value.items()}
        case list() if levels > 0:
            return [_plain(inner, secrets, levels - 1) for inner in value]
        case _:
            return None


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str, secrets: Collection[bytes]) -> str:
    """Without secrets, NUL and lone surrogates, which no database keeps."""
    readable = mask(text.encode(errors="replace"), secrets).decode(errors="replace")
    return readable.replace("\0", "\ufffd")


def _shortened(document: Document) -> dict[str, Any]:
    kept = {name: document[name] for name in _FIRST if name in document}
    for name, value in kept.items():
        if not _is_number(value) and value is not None:
            kept[name] = str(value)[:_LONGEST_MESSAGE]
    return kept if _size(kept) <= LARGEST_PROGRESS else {k: v for k, v in kept.items() if _is_number(v)}


def _size(document: Document) -> int:
    return len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
