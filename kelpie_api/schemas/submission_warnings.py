"""What is accepted in a submission and is probably not meant: sentences for the warnings of the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from kelpie_api.net.addresses import THIS_MACHINE, place_of
from kelpie_api.queue.during_prefixes import SharedPlace
from kelpie_api.queue.states import LEGACY_FIELDS

_OF_NO_REGION = re.compile(r"arn:[^:]*:s3::[^:]*:accesspoint[:/]")


def doubts(job: Mapping[str, Any], shared: Iterable[SharedPlace], webhooks_may_be_private: bool) -> Iterator[str]:
    """Sentences about a submitted job, each naming the field that it is about."""
    for place in shared:
        yield (
            f"{place.field} is not this job's own: the open job {place.job_id} keeps its checkpoints in"
            f" {place.place[:200]}, and each would resume from the other's; give every job a prefix of its own."
        )
    for field, prefix in places(job, "prefix"):
        if prefix.startswith("/"):
            yield doubt_of_prefix(field, prefix)
    for field, bucket in places(job, "bucket"):
        if _OF_NO_REGION.match(bucket):
            yield (
                f"{field} is a multi-region access point, whose signatures workers cannot make, so that the job"
                " would fail: name a bucket, or an access point of one region."
            )
    yield from doubts_of_blanks(job)
    if job["webhook"]:
        yield from doubts_of_webhook(job["webhook"], webhooks_may_be_private)


def doubts_of_blanks(job: Mapping[str, Any]) -> Iterator[str]:
    for field in ("command", "container_group_id"):
        if job[field] and job[field] != job[field].strip():
            yield f"{field} begins or ends with a blank, which is a part of it."
    program, _, rest = job["command"].strip().partition(" ")
    if rest and not job["arguments"] and "/" not in program:
        yield (
            "command is one program, and no shell takes it apart: write"
            f' "command": "{program[:100]}", and put what follows into arguments.'
        )


def doubts_of_webhook(url: str, may_be_private: bool) -> Iterator[str]:
    if place_of(url)[0] == THIS_MACHINE:
        if not may_be_private:
            yield (
                "webhook names the machine that opens it, and that is the coordinator's; it will not be delivered:"
                " name a public address of yours."
            )
    elif urlsplit(url).scheme == "http":
        yield (
            "webhook is not encrypted, and it carries the API key of the worker in X-Kelpie-Key: use https, or a"
            " key with the role worker."
        )


def places(job: Mapping[str, Any], which: str) -> Iterator[tuple[str, str]]:
    """Every bucket of a job, or every prefix, as `which` says, with the path of its field."""
    for part, blocks in (job["sync"] or {}).items():
        for place, block in enumerate(blocks):
            yield f"sync.{part}.{place}.{which}", block[which]
    for field in LEGACY_FIELDS:
        if field.endswith(which) and job[field]:
            yield field, job[field]


def doubt_of_prefix(field: str, prefix: str) -> str:
    if prefix == "/":
        return (
            f"{field} is empty, and then every key begins with a slash: it is not the whole bucket; name a folder,"
            " such as my-job/."
        )
    return (
        f"{field} begins with a slash, and then the keys do, too; in most buckets the folder is"
        f" {prefix.lstrip('/')[:200]}."
    )
