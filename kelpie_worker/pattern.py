"""Which files a sync block means. The one place that knows the dialect of its `pattern`."""

from collections.abc import Callable

from regress import Regex, RegressError


def matcher(pattern: str | None) -> Callable[[str], bool]:
    """Whether a name holds a match: the whole key of a download, the relative path of an upload.

    Patterns are ECMAScript's (contract section 2), which Python's `re` reads differently. ValueError for one
    that does not compile.
    """
    if pattern is None:
        return lambda name: True
    try:
        compiled = Regex(pattern)
    except RegressError as error:
        raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from error
    return lambda name: compiled.find(name) is not None
