"""Listings of storage that pages in its own way: each object once, and always an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kelpie_worker.s3.errors import StorageUnreachable
from kelpie_worker.s3.listing import Page, all_files, make_readable

KEYS = [f"p/{number}" for number in range(7)]
Pager = Callable[[dict[str, str]], Page]


def page(keys: list[str], truncated: bool | None, token: str | None = None) -> Page:
    found: Page = {"Name": "b", "Contents": [{"Key": key, "Size": 1} for key in keys]}
    found |= {} if truncated is None else {"IsTruncated": truncated}
    return found | ({"NextContinuationToken": token} if token else {})


def after(where: dict[str, str], tells_token: bool, by_key: bool = True) -> Page:
    """Two keys a page; tokens are numbers."""
    begin = int(where.get("ContinuationToken", 0))
    if "StartAfter" in where and by_key:
        begin = KEYS.index(where["StartAfter"]) + 1
    end = begin + 2
    more = end < len(KEYS)
    return page(KEYS[begin:end], more, str(end) if more and tells_token else None)


@pytest.mark.parametrize(
    "pager",
    [
        lambda where: after(where, tells_token=True),
        lambda where: after(where, tells_token=False),
        lambda where: {**after(where, tells_token=True), "Contents": page(KEYS, True)["Contents"]},
        lambda where: {k: v for k, v in after(where, tells_token=True).items() if k != "IsTruncated"},
        lambda where: page([], True, "1") if not where else page(KEYS, False),
        lambda where: page(["q/other", *KEYS], False),
        lambda where: (
            {**after(where, tells_token=False), "NextContinuationToken": "same"}
            if "StartAfter" in where or not where
            else page(KEYS[:2], True, "same")
        ),
    ],
    ids=[
        "tokens",
        "no tokens",
        "every page has all",
        "only a token says that there is more",
        "an empty page",
        "keys of other prefixes",
        "one token for ever",
    ],
)
def test_every_object_is_listed_once(pager: Pager) -> None:
    assert [file.key for file in all_files("p/", pager, "listing")] == KEYS


@pytest.mark.parametrize(
    "pager",
    [
        lambda where: page(KEYS, True),
        lambda where: page(KEYS, True, "same"),
        lambda where: page(KEYS, True, f"{where.get('ContinuationToken', '')}+"),
        lambda where: page([], True, f"{where.get('ContinuationToken', '')}+"),
        lambda where: page([], True),
    ],
    ids=["no token", "the same token", "ever new tokens", "empty pages", "an empty page without a token"],
)
def test_a_listing_that_goes_round_in_circles_ends_with_a_sentence(pager: Pager) -> None:
    with pytest.raises(StorageUnreachable, match="listing b/p: it says that there is more, but"):
        list(all_files("p/", pager, "listing b/p"))


def test_what_a_listing_leaves_out_is_not_known() -> None:
    (file,) = all_files("", lambda where: {"Contents": [{"Key": "x"}], "IsTruncated": False}, "listing")
    assert (file.size, file.etag, file.modified) == (-1, "", 0.0)
    with pytest.raises(StorageUnreachable, match="listing: a listing without keys"):
        list(all_files("", lambda where: {"Contents": [{"Size": 1}]}, "listing"))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"<KeyCount></KeyCount><Key>a</Key>", b"<Key>a</Key>"),
        (b"<MaxKeys>many</MaxKeys>", b""),
        (b"<IsTruncated>True</IsTruncated>", b"<IsTruncated>true</IsTruncated>"),
        (b"<IsTruncated>false</IsTruncated>", b"<IsTruncated>false</IsTruncated>"),
        (b"<Size></Size><Size>12</Size><Size> 3 </Size><Size>12B</Size>", b"<Size>12</Size><Size> 3 </Size>"),
    ],
)
def test_a_page_is_mended_before_it_is_parsed(sent: bytes, read: bytes) -> None:
    answer: dict[str, Any] = {"body": sent}
    make_readable(answer, operation_name="ListObjectsV2")
    assert answer["body"] == read
