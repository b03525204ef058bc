"""The short way to one object: what boto3 worked out for one request serves the next ones.

boto3 works each request out anew: endpoint rules, hooks, validation, a parser for the answer. That is half of what
a small file costs. So the first upload and the first download of a bucket go through it, and what came of it is
remembered: the address, and how the request was signed. From then on requests are only signed, by botocore, and
sent, over the client's own connections, with its proxies, certificates and time limits.

The way is learned, never guessed: a request that was not signed in the common way teaches nothing. An answer that
boto3 may know how to follow, to another region say, is left to it.
"""

import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_COMMON_SIGNATURE = "s3v4"
_COMMON_SIGNING = {
    "region",
    "signing_name",
    "disableDoubleEncoding",
}  # others: credentials of its own, an identity
_FOR_SIGNING = ("client_config", "has_streaming_input")  # of what botocore knows of a request
_ELSEWHERE = (301, 302, 307, 308, 400)
_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")


class AskBoto(Exception):
    """There is no short way, or it does not lead there."""


@dataclass(frozen=True)
class Way:
    """How one operation reaches a bucket's objects."""

    base: str  # the URL less the key
    signer: Any
    signing: Mapping[str, str]
    context: Mapping[str, Any]
    user_agent: str


class FastPath:
    """Of one client; threads may share it. Requests raise AskBoto, and what boto3 raises."""

    def __init__(self, client: "S3Client") -> None:
        self._client: Any = client  # its connections are not in the types
        settings: Any = client.meta.config
        self._checksums = settings.request_checksum_calculation == "when_supported"
        self._ways: dict[tuple[str, str], Way] = {}
        for operation in ("PutObject", "GetObject"):
            client.meta.events.register_last(f"before-sign.s3.{operation}", self._learn)

    def put(
        self, bucket: str, key: str, body: bytes, content_type: str, md5: str, condition: Mapping[str, str]
    ) -> dict[str, Any]:
        """Store an object; what matters of the answer, by boto3's names. `condition` is headers."""
        headers = {"Content-Type": content_type, "Content-MD5": md5, **condition}
        if self._checksums:
            headers["x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        answer = self._ask("PUT", "PutObject", (bucket, key), headers, body)
        return {"ETag": answer.headers.get("ETag"), "VersionId": answer.headers.get("x-amz-version-id")}

    def get(self, bucket: str, key: str) -> tuple[Any, Mapping[str, str]]:
        """An object's body to read, and the headers of the answer.

        Reading raises if the body ends too early, or is not what the storage's checksum says.
        """
        headers = {"x-amz-checksum-mode": "ENABLED"} if self._checksums else {}
        answer = self._ask("GET", "GetObject", (bucket, key), headers, None)
        return _checked_body(answer), answer.headers

    def _ask(
        self, method: str, operation: str, place: tuple[str, str], headers: dict[str, str], body: bytes | None
    ) -> Any:
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import ClientError

        bucket, key = place
        way = self._ways.get((operation, bucket))
        if way is None:
            raise AskBoto
        headers["User-Agent"] = way.user_agent
        request = AWSRequest(method, way.base + _quoted(key), headers, body, stream_output=body is None)
        request.context = dict(way.context)
        # Asked each time, for credentials may be renewed.
        way.signer.get_auth_instance(**way.signing).add_auth(request)
        answer = self._client._endpoint.http_session.send(request.prepare())
        if answer.status_code == 200:
            return answer
        code = _error_code(answer)
        if answer.status_code in _ELSEWHERE:  # what becomes of it is learned anew
            raise AskBoto
        error = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": answer.status_code}}
        raise ClientError(error, operation)  # type: ignore[arg-type]  # no more of it is read

    def _learn(
        self, request: Any, signature_version: Any, request_signer: Any, operation_name: str, **common: Any
    ) -> None:
        """From what boto3 is about to sign; called by it, also when it has followed a bucket to its region."""
        asked, signing = request.context.get("input_params", {}), request.context.get("signing", {})
        bucket, quoted = asked.get("Bucket", ""), _quoted(asked.get("Key", ""))
        if (
            signature_version != _COMMON_SIGNATURE
            or not signing.keys() <= _COMMON_SIGNING
            or not quoted
            or not request.url.endswith(f"/{quoted}")
        ):
            self._ways.pop((operation_name, bucket), None)
            return
        self._ways[operation_name, bucket] = Way(
            request.url.removesuffix(quoted),
            request_signer,
            {
                "signing_name": signing.get("signing_name") or common["signing_name"],
                "region_name": signing.get("region") or common["region_name"],
                "signature_version": signature_version,
            },
            {name: request.context[name] for name in _FOR_SIGNING if name in request.context},
            str(request.headers.get("User-Agent", "")),
        )


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _error_code(answer: Any) -> str:
    """Reads the body to its end, so that the connection is free again."""
    found = _CODE.search(answer.content)
    return found[1].decode(errors="replace") if found else str(answer.status_code)


def check_bounds(headers: Mapping[str, str]) -> None:
    """ConnectionError where nobody could tell a body's end from its loss, for the headers were cut."""
    if not {"content-length", "transfer-encoding"} & {name.lower() for name in headers}:
        raise ConnectionError("an answer without its length")


def _checked_body(answer: Any) -> Any:
    """Checked as boto3 does it: by length, and by the storage's checksum if it is one of the whole object."""
    from botocore.httpchecksum import Crc32Checksum, Sha1Checksum, Sha256Checksum, StreamingChecksumBody
    from botocore.response import StreamingBody

    check_bounds(answer.headers)
    length = answer.headers.get("Content-Length")
    for name, checksum in (("crc32", Crc32Checksum), ("sha1", Sha1Checksum), ("sha256", Sha256Checksum)):
        expected = answer.headers.get(f"x-amz-checksum-{name}")
        if expected and "-" not in expected:
            return StreamingChecksumBody(answer.raw, length, checksum(), expected)
    return StreamingBody(answer.raw, length)
