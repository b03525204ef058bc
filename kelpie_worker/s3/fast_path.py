"""Uploads and downloads without most of boto3: URL and signing of a bucket's first request serve the next ones.

boto3 computes each request anew (endpoint rules, hooks, validation, a parser for the answer), which is half of
what a small file costs. So the first upload and the first download of a bucket go through boto3, and the URL and
the signing parameters are recorded. Later requests are only signed, by botocore, and sent over the client's own
connection pool, with its proxies, certificates and time limits.

Nothing is guessed: a request that was not signed in the common way is not recorded. An answer that boto3 may know
how to follow (a redirect to another region, for example) is left to boto3.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from kelpie_worker.job import ObjectKey
from kelpie_worker.s3.answers import Answer, bounded, checked, document, of_session
from kelpie_worker.s3.encodings import tell_accepted
from kelpie_worker.s3.objects import Target

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from kelpie_worker.s3.connections import KeptConnections

_COMMON_SIGNATURE = "s3v4"
_COMMON_SIGNING = {
    "region",
    "signing_name",
    "disableDoubleEncoding",
}  # any other one means signing with special credentials or an identity
_FOR_SIGNING = ("client_config", "has_streaming_input")  # the entries of a request's context that signing reads
_LEFT_TO_BOTO = (301, 302, 307, 308, 400)  # statuses: redirects, and the wrong region
_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")


class NoFastPath(Exception):
    """This request has to go through boto3: nothing is recorded for the bucket, or it is redirected."""


@dataclass(frozen=True)
class RequestTemplate:
    """How one operation's requests to a bucket are addressed and signed."""

    base: str  # the URL without the key
    host: str  # as its header names it
    signer: Any
    signing: Mapping[str, str]
    context: Mapping[str, Any]
    user_agent: str


class FastPath:
    """The fast path of one client; threads may share it. Requests raise NoFastPath, and what boto3 raises."""

    def __init__(self, client: S3Client) -> None:
        self._client: Any = client  # typed Any, because its connection pool is not in the stubs
        settings: Any = client.meta.config
        self._sends_checksums = settings.request_checksum_calculation == "when_supported"
        self._asks_for_checksums = settings.response_checksum_validation == "when_supported"
        self._templates: dict[tuple[str, str], RequestTemplate] = {}  # by operation and bucket
        self._pools: dict[str, KeptConnections] = {}  # by the URL without the key
        for operation in ("PutObject", "GetObject"):
            client.meta.events.register_last(f"before-sign.s3.{operation}", self._record)

    def put(self, target: Target, body: bytes, md5: str, condition: Mapping[str, str]) -> dict[str, Any]:
        """Store an object; returns what is used of the answer under boto3's names. `condition` is headers."""
        headers = {**target.headers, "Content-MD5": md5, **condition}
        if self._sends_checksums:
            headers["x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        answer = self._send("PUT", "PutObject", target.place, headers, body)
        document(answer)
        return {
            "ETag": answer.headers.get("etag"),
            "VersionId": answer.headers.get("x-amz-version-id"),
            "ResponseMetadata": {"HTTPStatusCode": answer.status, "HTTPHeaders": answer.headers},
        }

    def get(self, bucket: str, key: str) -> Answer:
        """An object. Reading it raises if it ends too early or does not match the storage's checksum."""
        headers = {"x-amz-checksum-mode": "ENABLED"} if self._asks_for_checksums else {}
        return checked(self._send("GET", "GetObject", (bucket, key), headers, None))

    def get_range(self, bucket: str, key: str, first: int, last: int, condition: Mapping[str, str]) -> Answer:
        """Bytes of an object, both ends included; the answer may be all of it. `condition` is headers.

        Reading it raises if it ends too early.
        """
        headers = {"Range": f"bytes={first}-{last}", **condition}
        return bounded(self._send("GET", "GetObject", (bucket, key), headers, None))

    def _send(
        self, method: str, operation: str, target: ObjectKey, headers: dict[str, str], body: bytes | None
    ) -> Answer:
        from botocore.exceptions import ClientError

        bucket, key = target
        template = self._templates.get((operation, bucket))
        if template is None:
            raise NoFastPath
        headers["User-Agent"] = template.user_agent
        headers["Host"] = template.host  # else it is worked out for every signature, twice
        answer = self._answer_to(template, _signed(template, method, key, headers, body))
        if answer.status == 200 or (answer.status == 206 and "Range" in headers):
            return answer
        code = _error_code(answer)
        if answer.status in _LEFT_TO_BOTO:  # `_record` then sees the request that boto3 sends instead
            raise NoFastPath
        error = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": answer.status}}
        raise ClientError(error, operation)  # type: ignore[arg-type]  # only these fields of it are read

    def _answer_to(self, template: RequestTemplate, request: Any) -> Answer:
        """Exchange on a connection that is open, or have one made by the client's session."""
        from kelpie_worker.s3.connections import KeptConnections
        from kelpie_worker.s3.exchange import exchange

        pool = self._pools.get(template.base)
        if pool and (answer := exchange(pool, request)):
            return answer
        found = self._client._endpoint.http_session.send(request)
        pool = getattr(found.raw, "_pool", None)
        if isinstance(pool, KeptConnections):
            self._pools[template.base] = pool
        return of_session(found)

    def _record(
        self, request: Any, signature_version: Any, request_signer: Any, operation_name: str, **common: Any
    ) -> None:
        """Remember how this request is addressed and signed. boto3 calls it before it signs one.

        It does so again when it has followed a redirect to the bucket's region.
        """
        parameters, signing = request.context.get("input_params", {}), request.context.get("signing", {})
        bucket, quoted = parameters.get("Bucket", ""), _quoted(parameters.get("Key", ""))
        if (
            signature_version != _COMMON_SIGNATURE
            or not signing.keys() <= _COMMON_SIGNING
            or not quoted
            or not request.url.endswith(f"/{quoted}")
        ):
            self._templates.pop((operation_name, bucket), None)
            return
        self._templates[operation_name, bucket] = RequestTemplate(
            request.url.removesuffix(quoted),
            _host(request.url),
            request_signer,
            {
                "signing_name": signing.get("signing_name") or common["signing_name"],
                "region_name": signing.get("region") or common["region_name"],
                "signature_version": signature_version,
            },
            {name: request.context[name] for name in _FOR_SIGNING if name in request.context},
            str(request.headers.get("User-Agent", "")),
        )


def _host(url: str) -> str:
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return parts.netloc.rpartition("@")[2].lower().removesuffix(default)


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _signed(template: RequestTemplate, method: str, key: str, headers: dict[str, str], body: bytes | None) -> Any:
    from botocore.awsrequest import AWSRequest

    request = AWSRequest(method, template.base + _quoted(key), headers, body, stream_output=True)
    request.context = dict(template.context)
    # A new auth instance for each request, because credentials may have been renewed.
    template.signer.get_auth_instance(**template.signing).add_auth(request)
    prepared = request.prepare()
    if method == "GET":
        tell_accepted(prepared)
    return prepared


def _error_code(answer: Answer) -> str:
    """The error code in an answer's body. Reads the body to its end, so that the connection can be reused."""
    found = _CODE.search(document(answer))
    return found[1].decode(errors="replace") if found else str(answer.status)
