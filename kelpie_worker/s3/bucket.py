"""The bucket operations of one attempt. No module outside of this package knows boto3.

Every request is repeated up to `max_retries` times with backoff. What still fails raises StorageUnreachable (a
later try may succeed) or StorageRefused (storage says no, or this worker's AWS settings cannot be used). The table
in `whose_fault.py` says whose fault that is.
"""

import base64
import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelpie_worker import logs
from kelpie_worker.job import StoredObject
from kelpie_worker.lease import Lease
from kelpie_worker.s3.client import SharedClient
from kelpie_worker.s3.conditional_writes import Condition, Conditions, as_headers
from kelpie_worker.s3.encodings import accepting_gzip
from kelpie_worker.s3.errors import (
    Changed,
    Forbidden,
    Misconfigured,
    NoBucket,
    NoDestination,
    NotBegun,
    NotCopied,
    NotThere,
    NoUpload,
    StorageRefused,
    StorageUnreachable,
    translated,
)
from kelpie_worker.s3.fast_path import NoFastPath
from kelpie_worker.s3.get_object import Downloads
from kelpie_worker.s3.listing import all_files
from kelpie_worker.s3.objects import (
    OF_A_DATE,
    UNKNOWN,
    Absent,
    ObjectState,
    Part,
    RemoteFile,
    SourceRange,
    Stored,
    Target,
    Unknown,
    Version,
    as_given,
    bare,
    date_of,
    stored_by,
)
from kelpie_worker.s3.retrying import Calls
from kelpie_worker.s3.whose_fault import Asked, has_own_header
from kelpie_worker.system.backoff import Backoff
from kelpie_worker.system.retry import retry, within
from kelpie_worker.workspace.paths import own_name

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompleteMultipartUploadOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
    )

_NO_UPLOAD = "KelpieLooksWhetherItMayWrite"  # the id of no upload
_PUT_TOGETHER = 300.0  # seconds for which storage may put parts together after a gateway has given up
# Seconds for a key that is refused in the middle of an upload to be renewed. Else all would be sent again, and a
# file that takes longer than keys last would never arrive.
_KEY_RENEWED_WITHIN = 60.0
_NO_CONTENT = 204
_BETWEEN_LOOKS = Backoff(0.5, 10.0)
_LET_IT_PUT = (
    "let the AWS key put objects there; if it may put those of some names only, give the directory a pattern that"
    " tells them"
)
_KEYS_TRIED = 10  # objects whose names are tried where an upload of another name is forbidden


class Storage:
    """Each method that sends a request raises StorageUnreachable, StorageRefused or Cancelled."""

    def __init__(self, client: SharedClient, lease: Lease, max_retries: int) -> None:
        self._shared = client
        self._calls = Calls(client, lease, max_retries)
        self._downloads = Downloads(self._calls, self.listed)
        self._conditions = Conditions(self._calls)

    def check_settings(self) -> None:
        """Raises Misconfigured if the AWS_* variables cannot be used. Sends no request."""
        self._shared.get()

    def files(self, bucket: str, prefix: str) -> Iterator[RemoteFile]:
        """All objects under a prefix, listed page by page."""
        what = f"listing {bucket}/{prefix}"

        def page_after(where: dict[str, str]) -> Any:
            request = {"Bucket": bucket, "Prefix": prefix} | where
            return self._calls.repeated(what, partial(self._list, request), "IsTruncated", "Name")

        return all_files(prefix, page_after, what)

    def demand_destination(self, bucket: str, prefix: str, likely: Collection[str] = ()) -> None:
        """Raises NoDestination if there is no such bucket, or if nothing may be stored under the prefix.

        Where a listing or a write is forbidden, an upload is begun and aborted: many keys may only write, and only
        that shows for certain what the key may do. Some buckets take only some names (those in `.pt`, say): so it
        is tried, too, with the `likely` ones and with those that are there.
        """
        probe, what = _probe(bucket, prefix), f"looking whether {bucket}/{prefix} takes uploads"
        try:
            if self._may_list(bucket, prefix, what) and not self._seems_forbidden(probe, what):
                return
            refusal = self._forbids(probe, what)
            if refusal and all(
                self._forbids(replace(probe, key=key), what)
                for key in [*self._some_keys(bucket, prefix), *(prefix + name for name in likely)]
            ):
                raise NoDestination(f"{refusal}; {_LET_IT_PUT}") from refusal
        except NoBucket as error:
            raise NoDestination(str(error)) from error
        except (Misconfigured, NoDestination):
            raise
        except StorageRefused:
            pass  # it does not know such a request; the first upload will show

    def _forbids(self, target: Target, what: str) -> NotBegun | None:
        """The refusal if storage forbids to begin an upload there."""
        try:
            self.abort(target, self.begin(target, what))
        except NotBegun as error:
            return error if isinstance(error.__cause__, Forbidden) else None
        return None

    def _some_keys(self, bucket: str, prefix: str) -> list[str]:
        """Keys of objects that are under the prefix now, as far as it may be listed."""
        where = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _KEYS_TRIED}
        try:
            page = self._calls.repeated(
                f"listing {bucket}/{prefix}", partial(self._list, where), "IsTruncated", "Name"
            )
        except StorageRefused:
            return []
        keys = [str(shown.get("Key", "")) for shown in page.get("Contents", [])]
        return [key for key in keys if key.startswith(prefix) and not key.endswith("/")]

    def _may_list(self, bucket: str, prefix: str, what: str) -> bool:
        where = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1}
        try:
            self._calls.repeated(what, partial(self._list, where), "IsTruncated", "Name")
        except Forbidden:
            return False
        return True

    def _seems_forbidden(self, target: Target, what: str) -> bool:
        """Whether a part is refused that is sent for an upload which does not exist.

        Storage looks first whether the key may write. Nothing is left, no version and no open upload. Any other
        answer tells nothing, so that this is asked once.
        """
        try:
            Calls(self._shared, self._calls.lease, max_retries=0).sending(
                what,
                lambda: self._client.upload_part(
                    Bucket=target.bucket, Key=target.key, UploadId=_NO_UPLOAD, PartNumber=1, Body=b""
                ),
                "ETag",
                size=0,
            )
        except Forbidden:
            return True
        except (StorageUnreachable, StorageRefused):
            return False
        return False

    def takes_uploads(self, bucket: str, prefix: str) -> bool:
        """Whether some bytes can be uploaded there now, or the storage itself forbids it; they are discarded."""
        probe = _probe(bucket, prefix)
        try:
            upload = self.begin(probe)
            try:
                self.send_part(probe, upload, 1, probe.key.encode())
            finally:
                self.abort(probe, upload)
        except NotBegun as error:
            return isinstance(error.__cause__, Forbidden)  # it may take only some names, and is in reach
        except (StorageUnreachable, StorageRefused):
            return False
        return True

    def listed(self, bucket: str, key: str) -> RemoteFile | None:
        """The object as a listing shows it now; None if it shows none."""
        return next((file for file in self.files(bucket, key) if file.key == key), None)

    def fetch(self, bucket: str, key: str, path: Path, listed: RemoteFile | None = None) -> RemoteFile:
        """Download an object into a new file; returns what was received. Raises OSError too."""
        return self._downloads.fetch(bucket, key, path, listed)

    def has(self, stored: StoredObject) -> bool:
        """Whether the bucket still has this version of the object."""
        try:
            found = self._calls.head(stored.bucket, stored.key, stored.version_id)
        except Misconfigured:
            raise
        except StorageRefused:
            return False
        return found.get("ContentLength") == stored.size and stored_by(found).etag == stored.etag

    def put(self, target: Target, body: bytes, over: ObjectState = UNKNOWN) -> Stored:
        """Store a small object in one request, verified. `over` as in Conditions.store_over; raises Changed."""
        digest = hashlib.md5(body, usedforsecurity=False)
        what = f"uploading {target.bucket}/{target.key}"

        def store(condition: Condition) -> Stored:
            md5 = _base64(digest.digest())
            answer = self._calls.changing(
                what,
                lambda: self._with_etag(self._put_once(target, body, md5, condition), target, digest.hexdigest()),
                "ETag",
                size=len(body),
                asked=_asked(condition),
            )
            stored = stored_by(answer)
            if stored.etag != digest.hexdigest():
                self._verify(target, stored.etag, len(body), has_own_header(_headers_of(answer)))
            else:
                self._shared.etag_is_md5.saw(target.bucket, True)
            return stored

        def is_sent(found: "HeadObjectOutputTypeDef") -> bool:
            return found.get("ContentLength") == len(body) and self._has_content(target, found, digest.hexdigest())

        return self._conditions.try_out(over, target, len(body), store) or self._conditions.store_over(
            over, target, is_sent, store
        )

    def _has_content(self, target: Target, found: "HeadObjectOutputTypeDef", md5: str) -> bool:
        """Whether the object that a look has found has this MD5: it is read where that is not the ETag's rule."""
        if stored_by(found).etag == md5 or self._shared.etag_is_md5.of(target.bucket):
            return stored_by(found).etag == md5
        try:
            return self._read_back(target, found, md5) is not None
        except StorageRefused:
            return False

    def begin(self, target: Target, what: str | None = None) -> str:
        """Start a multipart upload; returns its id. Nothing is visible until `complete`. Raises NotBegun.

        `what` names it in errors.
        """
        try:
            answer = self._calls.repeated(
                what or f"beginning {target.bucket}/{target.key}",
                lambda: self._client.create_multipart_upload(
                    Bucket=target.bucket, Key=target.key, **target.parameters
                ),
                "UploadId",
            )
        except (NoBucket, Misconfigured):
            raise
        except StorageRefused as refusal:
            raise NotBegun(str(refusal)) from refusal
        self._shared.open_uploads.begun((answer["UploadId"], target.bucket, target.key), date_of(answer))
        return answer["UploadId"]

    def send_part(self, target: Target, upload_id: str, number: int, body: bytes) -> Part:
        md5 = hashlib.md5(body, usedforsecurity=False).digest()

        def once() -> Any:
            answer: Any = self._client.upload_part(
                Bucket=target.bucket,
                Key=target.key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                ContentMD5=_base64(md5),
            )
            if answer.get("ETag") is not None or not (listed := self._listed_part(target, upload_id, number)):
                return answer
            return answer | {"ETag": listed.get("ETag")} if listed.get("Size") == len(body) else answer

        what = f"uploading part {number} of {target.bucket}/{target.key}"
        answer = self._calls.sending(what, once, "ETag", size=len(body), key_renewed_within=_KEY_RENEWED_WITHIN)
        if bare(answer["ETag"]) == md5.hex():
            self._shared.etag_is_md5.saw(target.bucket, True)
        return Part(number, as_given(answer["ETag"]), md5)

    def copies_parts(self, bucket: str) -> bool:
        """Whether `copy_part` is worth a try, by what the bucket answered before."""
        return self._shared.copies_parts.of(bucket) is not False

    def copy_part(self, target: Target, upload_id: str, number: int, source: SourceRange, is_known: bool) -> Part:
        """Have storage copy a range of the target's object as a part, and check what it copied.

        `is_known`: the object's content is known to be the local file's. Else storage has to prove that by an ETag
        that is the MD5. Raises NotCopied.
        """
        what = f"copying part {number} of {target.bucket}/{target.key}"
        try:
            etag = self._copied(target, upload_id, number, source, what)
            if not self._is_copied(target, upload_id, number, etag, source, is_known):
                raise NotCopied(f"{what}: it is not what was to be copied")
        except (Changed, NotThere) as error:
            raise NotCopied(f"{what}: the object is not there any more") from error
        except (NotCopied, StorageRefused, StorageUnreachable) as error:
            if self._shared.copies_parts.saw(target.bucket, False):
                logs.warn("parts_not_copied", bucket=target.bucket, detail=str(error))
            raise NotCopied(str(error)) from error
        self._shared.copies_parts.saw(target.bucket, True)
        return Part(number, etag, source.md5)

    def _copied(self, target: Target, upload_id: str, number: int, source: SourceRange, what: str) -> str:
        answer = self._calls.repeated(
            what,
            lambda: self._client.upload_part_copy(
                Bucket=target.bucket,
                Key=target.key,
                UploadId=upload_id,
                PartNumber=number,
                CopySource={"Bucket": target.bucket, "Key": target.key},
                CopySourceIfMatch=f'"{source.etag}"',
                CopySourceRange=f"bytes={source.first}-{source.first + source.length - 1}",
            ),
            "CopyPartResult",
            asked=Asked.VERSION,
        )
        return str(answer["CopyPartResult"].get("ETag", ""))

    def _is_copied(
        self, target: Target, upload_id: str, number: int, etag: str, source: SourceRange, is_known: bool
    ) -> bool:
        """Whether the part is the source. Where ETags are no MD5, its size tells that the range was honoured."""
        if bare(etag) == source.md5.hex():
            return True
        if not is_known or self._shared.etag_is_md5.of(target.bucket):
            return False
        listed = self._calls.repeated(
            f"listing the parts of {target.bucket}/{target.key}",
            lambda: self._listed_part(target, upload_id, number),
        )
        return bool(listed and listed.get("Size") == source.length)

    def _listed_part(self, target: Target, upload_id: str, number: int) -> Any:
        """The part as storage lists it, with `Size` and `ETag`; None if it lists none."""
        answer = self._client.list_parts(
            Bucket=target.bucket, Key=target.key, UploadId=upload_id, PartNumberMarker=number - 1, MaxParts=1
        )
        return next((part for part in answer.get("Parts", []) if part.get("PartNumber") == number), None)

    def complete(
        self, target: Target, upload_id: str, parts: list[Part], size: int, over: ObjectState = UNKNOWN
    ) -> Stored:
        """Complete a multipart upload and verify that the object is what was sent. `over` as in `put`.

        Storage may take minutes to put the parts together. The answer is lost then, and to the next try the upload
        is gone: what counts is the object that is there, or comes. A gateway may give up waiting long before.
        """
        listed: Any = {"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]}
        etag = _multipart_etag(parts)
        what = f"completing {target.bucket}/{target.key}"
        became = partial(self._became, target, upload_id, (etag, size), over)
        tries = 0

        def is_sent(found: "HeadObjectOutputTypeDef") -> bool:
            return (stored_by(found).etag, found.get("ContentLength")) == (etag, size)

        def store(condition: Condition) -> Stored:
            def once() -> Any:
                nonlocal tries
                tries += 1
                answer = self._complete_once(target, upload_id, listed, condition)
                if answer.get("ETag") is not None:
                    return answer
                return self._told_by_a_look(became, target) or answer

            answer = self._calls.changing(
                what, once, "ETag", asked=_asked(condition), key_renewed_within=_KEY_RENEWED_WITHIN
            )
            stored = stored_by(answer)
            if stored.etag != etag:
                self._verify(target, stored.etag, size, is_storages=True)  # its document has named the ETag
            return self._as_listed(target, stored)

        try:
            stored = self._conditions.store_over(over, target, is_sent, store)
        except NoUpload:
            stored = self._completed_before(target, became, _PUT_TOGETHER if tries > 1 else 0.0)
        self._shared.open_uploads.over(upload_id)
        return stored

    def _completed_before(self, target: Target, became: Callable[[], Any], patience: float) -> Stored:
        """The object that an upload became whose completion was not answered; if none, StorageUnreachable.

        It is looked for at least for `patience` seconds.
        """
        what = f"verifying {target.bucket}/{target.key}"

        def once() -> Stored:
            try:
                return stored_by(became())
            except NotThere as error:
                raise StorageUnreachable(f"{target.bucket}/{target.key} is not what was uploaded") from error

        return retry(
            lambda: self._calls.repeated(what, once),
            on=(StorageUnreachable,),
            backoff=_BETWEEN_LOOKS,
            pause=self._calls.lease.pause,
            until=within(patience),
        )

    def _became(
        self, target: Target, upload_id: str, content: tuple[str, int], over: ObjectState
    ) -> "HeadObjectOutputTypeDef":
        """What a look tells of the object that an upload became. Raises NotThere if it is another one.

        Its ETag is not the one of S3's rule at all providers: then it is the object that has the size, is no older
        than the upload, and is not what the upload was to replace. For a checkpoint often has the size of the one
        before it, which may have been stored in the second in which the upload began; and storage removes uploads
        that wait for long.
        """
        etag, size = content
        begun_at = self._shared.open_uploads.begun_at(upload_id)
        margin = 0.0 if isinstance(over, Unknown) else OF_A_DATE
        found = self._calls.head_once(target.bucket, target.key)
        stored = stored_by(found)
        modified = found.get("LastModified")
        is_new = begun_at is not None and modified is not None and modified.timestamp() >= begun_at - margin
        is_new = is_new and over != Version(stored.etag)
        if found.get("ContentLength") != size or (stored.etag != etag and not is_new):
            raise NotThere(target.key)
        return found

    def go_without_conditions(self, bucket: str, detail: str) -> None:
        self._conditions.go_without(bucket, detail)

    def state_of(self, bucket: str, key: str) -> ObjectState:
        """What is stored under the key now; Unknown if storage refuses the look-up."""
        try:
            return Version(stored_by(self._calls.head(bucket, key)).etag)
        except NotThere:
            return Absent()
        except Misconfigured:
            raise
        except StorageRefused:
            return Unknown()

    def described(self, bucket: str, key: str) -> tuple[StoredObject, dict[str, str]] | None:
        """The current object and its metadata; None if there is none, or storage refuses the look-up."""
        try:
            found = self._calls.head(bucket, key)
        except StorageRefused:
            return None
        stored, size = stored_by(found), found.get("ContentLength", -1)
        described = StoredObject(bucket, key, size, bare(stored.etag), stored.version_id)
        return described, dict(found.get("Metadata", {}))

    def abort(self, target: Target, upload_id: str) -> None:
        """Abort a multipart upload. Tried once, because the caller is shutting down; `abort_left` tries again."""
        what = f"aborting {target.bucket}/{target.key}"
        try:
            answer = translated(
                lambda: self._client.abort_multipart_upload(
                    Bucket=target.bucket, Key=target.key, UploadId=upload_id
                ),
                what,
            )
            if not _is_of_storage(answer):
                raise StorageUnreachable(f"{what}: an answer that may be of something before the storage")
        except NoUpload:
            pass  # an earlier abort or completion succeeded and its answer was lost
        except (StorageUnreachable, StorageRefused) as error:
            self._shared.open_uploads.abandon(upload_id)
            logs.warn("upload_not_aborted", key=target.key, detail=str(error))
            return
        self._shared.open_uploads.over(upload_id)

    def abort_left(self) -> None:
        """Abort the uploads that an earlier run, or an abort that failed, left open."""
        self._shared.open_uploads.abort_left(
            lambda upload: self.abort(Target(bucket=upload[1], key=upload[2], content_type=""), upload[0])
        )

    def delete(self, bucket: str, key: str, known: ObjectState = UNKNOWN) -> None:
        """Delete an object. Raises Changed if another than `known` is there and storage enforces conditions."""
        what = f"deleting {bucket}/{key}"
        if isinstance(known, Version) and self._conditions.may_be_enforced(bucket):
            match_etag = f'"{known.etag}"'
            try:
                self._calls.changing(
                    what,
                    lambda: self._delete_once(bucket, key, known, {"IfMatch": match_etag}),
                    asked=Asked.CONDITION,
                )
                return
            except (NoBucket, Misconfigured):
                raise
            except NotThere:
                return
            except StorageRefused:  # some storage knows conditions for writes but not for deletes
                found = self.state_of(bucket, key)
                if isinstance(found, Absent):
                    return
                if found not in (known, UNKNOWN):
                    raise Changed(f"{what}: it is another object", found) from None
        try:
            self._calls.changing(what, lambda: self._delete_once(bucket, key, known, {}))
        except NotThere:
            return  # an earlier try deleted it and its answer was lost: Google's storage says then that it is gone

    @property
    def _client(self) -> "S3Client":
        return self._shared.get()

    # --- single requests ----------------------------------------------------------------------------

    def _put_once(self, target: Target, body: bytes, md5: str, condition: Any) -> Any:
        try:
            return self._shared.fast_path.put(target, body, md5, as_headers(condition))
        except NoFastPath:
            return self._client.put_object(
                Bucket=target.bucket,
                Key=target.key,
                Body=body,
                ContentMD5=md5,
                **target.parameters,
                **condition,
            )

    def _with_etag(self, answer: Any, target: Target, md5: str) -> Any:
        """The answer to an upload, with the ETag that a look at the object tells where the answer has none.

        Without one such an answer proves nothing: it may be a proxy's. The object is the one that was sent if its
        ETag is the MD5, or if its content is: not all storage uses the MD5. Of any other it is not known, for
        another machine may have replaced it.
        """
        if answer.get("ETag") is not None:
            return answer

        def look() -> Any:
            found = self._calls.head_once(target.bucket, target.key)
            return found if stored_by(found).etag == md5 else self._read_back(target, found, md5)

        return self._told_by_a_look(look, target) or answer

    def _told_by_a_look(self, look: Callable[[], Any], target: Target) -> Any:
        """The ETag and version of what `look` finds; None if that is not what was sent, or cannot be told now.

        Raises Forbidden if the key may not look: to repeat the upload would bring no other answer.
        """
        try:
            found = look()
        except Forbidden as error:
            raise Forbidden(
                f"{target.bucket}/{target.key} was answered without an ETag, and {error}; let the AWS key read it,"
                " or have the proxy before the storage let ETags pass"
            ) from error
        except (StorageUnreachable, StorageRefused):
            return None
        return found and {"ETag": stored_by(found).etag, "VersionId": found.get("VersionId")}

    def _read_back(self, target: Target, found: Any, md5: str) -> Any:
        """What was found, with the ETag of what is read, if its content has this MD5; else None."""

        def read() -> tuple[str, Any]:
            with accepting_gzip(target.content_encoding == "gzip"):
                answer: Any = self._client.get_object(Bucket=target.bucket, Key=target.key)
            with closing(answer["Body"]) as body:
                return hashlib.md5(body.read(), usedforsecurity=False).hexdigest(), answer

        content, answer = translated(read, f"reading {target.bucket}/{target.key}")
        is_same = content == md5 and stored_by(answer).etag in ("", stored_by(found).etag)
        return found if is_same else None

    def _complete_once(
        self, target: Target, upload_id: str, listed: Any, condition: Any
    ) -> "CompleteMultipartUploadOutputTypeDef":
        return self._client.complete_multipart_upload(
            Bucket=target.bucket, Key=target.key, UploadId=upload_id, MultipartUpload=listed, **condition
        )

    def _delete_once(self, bucket: str, key: str, known: ObjectState, condition: Any) -> Any:
        """Raises StorageUnreachable if the answer may not be the storage's, and the object is still there."""
        answer = self._client.delete_object(Bucket=bucket, Key=key, **condition)
        if _is_of_storage(answer):
            return answer
        try:
            found = Version(stored_by(self._calls.head_once(bucket, key)).etag)
        except Misconfigured:
            raise
        except StorageRefused:  # it is gone, or the key may not look
            return answer
        if known in (found, UNKNOWN):
            raise StorageUnreachable(f"{bucket}/{key} is still there though it was deleted")
        return answer

    def _list(self, where: dict[str, Any]) -> "ListObjectsV2OutputTypeDef":
        return self._client.list_objects_v2(**where)

    def _as_listed(self, target: Target, stored: Stored) -> Stored:
        """The object with the ETag that a listing shows.

        Some servers answer a completion with another ETag. Until a bucket was seen not to, every completion is
        followed by a HEAD request.
        """
        if self._shared.completion_etags_last.of(target.bucket):
            return stored
        try:
            shown = stored_by(self._calls.head(target.bucket, target.key))
        except (StorageUnreachable, StorageRefused):  # the object is stored; only its ETag is uncertain
            return stored
        self._shared.completion_etags_last.saw(target.bucket, shown.etag == stored.etag)
        return shown

    def _verify(self, target: Target, etag: str, size: int, is_storages: bool) -> None:
        """Raises StorageUnreachable if the object is not there with this size and ETag, though it was stored.

        `is_storages`: the answer to the upload is the storage's for certain. It is believed, then, where the key
        may only write: the storage has compared what it got with its MD5.
        """
        try:
            found = self._calls.head(target.bucket, target.key)
        except NotThere as error:
            raise StorageUnreachable(f"{target.bucket}/{target.key} is not there though it was stored") from error
        except Forbidden as error:
            if is_storages:
                return
            raise Forbidden(f"{error}; let the AWS key read what it uploads") from error
        if found.get("ContentLength") != size or stored_by(found).etag != etag:
            raise StorageUnreachable(f"{target.bucket}/{target.key} is not what was uploaded")


def _probe(bucket: str, prefix: str) -> Target:
    return Target(bucket, f"{prefix}{own_name('probe')}", "application/octet-stream")


def _headers_of(answer: Any) -> dict[str, str]:
    found: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _is_of_storage(answer: Any) -> bool:
    """Whether the answer to a deletion is the storage's for certain: nothing in between answers 204 for it."""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status == _NO_CONTENT or has_own_header(_headers_of(answer))


def _asked(condition: Condition) -> Asked:
    return Asked.CONDITION if condition else Asked.OTHER


def _multipart_etag(parts: list[Part]) -> str:
    """The ETag that S3 computes for an object made of these parts."""
    digest = hashlib.md5(b"".join(part.md5 for part in parts), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(parts)}"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
