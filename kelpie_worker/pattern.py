"""Which files a sync block means. The one place that knows the dialect of its `pattern`."""

import re
from collections.abc import Callable


def matcher(pattern: str | None) -> Callable[[str], bool]:
    """Whether a name holds a match: the whole key of a download, the relative path of an upload. ValueError."""
    if pattern is None:
        return lambda name: True
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from error
    return lambda name: compiled.search(name) is not None
