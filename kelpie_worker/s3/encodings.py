"""Which requests accept a body that is packed with gzip.

Google's storage unpacks an object that is stored with `Content-Encoding: gzip` on its way, unless the request
accepts gzip: what comes then has neither the size nor the ETag that was listed. A proxy may do the opposite, and
pack any body whose request accepts gzip. So gzip is accepted for keys that end in `.gz`, as those of compressed
files do; where something of another size comes, the next try asks the other way. Bodies are taken as they come,
but a refusal is read whatever it is packed with.
"""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

_MOST_OF_A_REFUSAL = 64 * 1024  # bytes, unpacked
_GZIP = 16 + zlib.MAX_WBITS
_accepted: ContextVar[bool | None] = ContextVar("gzip_accepted", default=None)  # None: by the key


def is_packed(key: str) -> bool:
    """Whether the object is expected to be stored with `Content-Encoding: gzip`."""
    return key.endswith(".gz")


@contextmanager
def accepting_gzip(accepted: bool) -> Iterator[None]:
    """The requests that this thread sends meanwhile accept gzip, or do not, whatever their keys are."""
    token = _accepted.set(accepted)
    try:
        yield
    finally:
        _accepted.reset(token)


def tell_accepted(request: Any, **_: object) -> None:
    """Set the header of a request that is signed already. boto3 calls it before it sends one.

    The header must not be signed: Google's storage changes it before it checks the signature.
    """
    accepted = _accepted.get()
    if accepted is None:
        accepted = is_packed(urlsplit(request.url).path)
    request.headers["Accept-Encoding"] = "gzip" if accepted else "identity"


def unpacked(content: bytes, headers: Mapping[str, str]) -> bytes:
    """The body of a refusal, unpacked if a proxy has packed it: without its error code it would say nothing.

    At most its beginning, if it is long. `headers` are by names in lower case, or by names in any case.
    """
    if headers.get("content-encoding", "").lower() != "gzip":
        return content
    try:
        return zlib.decompressobj(_GZIP).decompress(content, _MOST_OF_A_REFUSAL)
    except zlib.error:
        return content


def make_refusal_readable(response_dict: Any, **_: object) -> None:
    """Unpack the error document of an answer. boto3 calls it before it parses one."""
    if response_dict["status_code"] >= 300:
        response_dict["body"] = unpacked(response_dict["body"], response_dict["headers"])
