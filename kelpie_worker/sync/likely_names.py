"""Names that a job's files may have, before there is one: a bucket may take only some, such as those in `.pt`.

A guess that is wrong costs a request. What is left out matters only where the bucket refuses all that is guessed.
"""

import re

from kelpie_worker.job import Job, SyncBlock
from kelpie_worker.transfer.content_types import SUFFIXES_OF_JOBS

_MOST = 20  # names that the command line tells, and of those that an earlier attempt sent
# What jobs' files begin with; a bucket may take only names of one beginning.
_BEGINNINGS = (
    "checkpoint",
    "checkpoint-1",
    "checkpoint_1",
    "checkpoints/x",
    "ckpt",
    "ckpt-1",
    "ckpt_1",
    "model",
    "model-1",
    "epoch-1",
    "epoch_1",
    "epoch=1",
    "step-1",
    "step_1",
    "state",
    "best",
    "last",
    "final",
    "output",
    "outputs/x",
    "result",
    "results/x",
    "logs/x",
)
_SUFFIX_IN_PATTERN = re.compile(r"\\\.([A-Za-z0-9]{1,15})")
_GROUP_IN_PATTERN = re.compile(r"\\\.\((?:\?:)?([A-Za-z0-9|]+)\)")
# The simple pieces of a pattern, and text that each of them matches.
_PIECES = [
    (re.compile(r"^\^|\$$"), ""),
    (re.compile(r"\\d[+*]?|\[0-9\][+*]?"), "1"),
    (re.compile(r"\\\."), "\0"),  # a dot that stays
    (re.compile(r"\.[*+]|\[\^/\][*+]|\\w[+*]?"), "x"),
    (re.compile(r"\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)"), r"\1"),
]
_OTHER_PIECES = re.compile(r"[\\^$.|?*+()\[\]{}]")


def likely_names(job: Job, block: SyncBlock) -> list[str]:
    """Relative keys that files of this block may have; the likeliest first."""
    names = _of_pattern(block.pattern or "") + _of_command(job, block)
    names += [f"x{suffix}" for suffix in SUFFIXES_OF_JOBS]
    names += _BEGINNINGS
    ending = ".gz" if job.compression else ""
    return list(dict.fromkeys(_sent_before(job, block) + [name + ending for name in names]))


def _sent_before(job: Job, block: SyncBlock) -> list[str]:
    """What the bucket took of an earlier attempt, also where the key may not list it."""
    there = [stored.key for stored in job.checkpoint if stored.bucket == block.bucket]
    return [key.removeprefix(block.prefix) for key in there if key.startswith(block.prefix)][:_MOST]


def _of_pattern(pattern: str) -> list[str]:
    """A name that a simple pattern matches, and one with each suffix that it tells."""
    suffixes = _SUFFIX_IN_PATTERN.findall(pattern)
    for group in _GROUP_IN_PATTERN.findall(pattern):
        suffixes += group.split("|")
    example = pattern
    for piece, text in _PIECES:
        example = piece.sub(text, example)
    found = [] if _OTHER_PIECES.search(example) else [example.replace("\0", ".")]
    return [name for name in found if name] + [f"x.{suffix}" for suffix in suffixes if suffix]


def _of_command(job: Job, block: SyncBlock) -> list[str]:
    """What the command line names in the block's directory. No other word goes to a bucket: some are secret."""
    folders = "|".join(re.escape(folder.rstrip("/")) for folder in (block.local_path, block.named) if folder)
    inside = re.compile(rf"(?<![\w./-])(?:\./)?(?:{folders})/(?P<name>[\w.+=-]+(?:/[\w.+=-]+)*)")
    line = " ".join((job.command, *job.arguments))
    return [found["name"] for found in inside.finditer(line)][:_MOST]
