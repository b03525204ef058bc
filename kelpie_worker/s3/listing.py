"""The pages of a listing, also of storage that pages in other ways than S3's documentation says.

There is an end of every listing, or an error: pages that bring nothing new are not asked for without a limit.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from kelpie_worker.s3.errors import StorageUnreachable
from kelpie_worker.s3.objects import RemoteFile, bare

_MOST_EMPTY = 100  # pages in a row: some storage pages through what was deleted
_UNUSED = re.compile(rb"<(KeyCount|MaxKeys)>[^<]*</\1>")
_TRUNCATED = re.compile(rb"<IsTruncated>\s*true\s*</IsTruncated>", re.IGNORECASE)
_NO_SIZE = re.compile(rb"<Size>(?!\s*[0-9]+\s*<)[^<]*</Size>")
Page = dict[str, Any]


def make_readable(response_dict: Any, **_: object) -> None:
    """Mend what botocore would stumble over, before it parses a page.

    Counts that nothing reads are often wrong, `True` would be taken for false, and a size may be missing.
    """
    body = response_dict["body"]
    if isinstance(body, bytes):
        body = _UNUSED.sub(b"", body)
        body = _NO_SIZE.sub(b"", body)
        response_dict["body"] = _TRUNCATED.sub(b"<IsTruncated>true</IsTruncated>", body)


def all_files(prefix: str, page_after: Callable[[dict[str, str]], Page], what: str) -> Iterator[RemoteFile]:
    """Every object under the prefix, each once, page by page.

    `page_after` gets the parameters that say where to go on. Raises what it raises, and StorageUnreachable if the
    storage says that there is more and not how to go on.
    """
    where: dict[str, str] = {}
    seen: set[str] = set()
    tokens: set[str] = set()
    last, empty = "", 0
    while True:
        page = page_after(where)
        new = [file for file in _files_on(page, what) if file.key.startswith(prefix) and file.key not in seen]
        seen.update(file.key for file in new)
        yield from new
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated", bool(token)):
            return
        last, empty = (new[-1].key, 0) if new else (last, empty + 1)
        if token and token not in tokens and empty < _MOST_EMPTY:
            tokens.add(token)
            where = {"ContinuationToken": token}
        elif last and where != {"StartAfter": last}:  # the page after a key can be asked for, too
            where = {"StartAfter": last}
        else:
            raise StorageUnreachable(f"{what}: it says that there is more, but its pages bring nothing new")


def _files_on(page: Page, what: str) -> Iterator[RemoteFile]:
    for item in page.get("Contents", []):
        if not item.get("Key"):
            raise StorageUnreachable(f"{what}: a listing without keys")
        modified = item["LastModified"].timestamp() if "LastModified" in item else 0.0
        yield RemoteFile(item["Key"], item.get("Size", -1), bare(item.get("ETag", "")), modified)
