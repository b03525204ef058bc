"""How a file is divided into the parts of an upload. Decisions only."""

_MIB = 1024 * 1024
WHOLE_SIZE = 5 * _MIB  # up to this a file is sent whole, when it is committed; no part but the last may be smaller
PART_SIZE = 8 * _MIB
_MOST_PARTS = 9000  # S3 allows 10,000
_MOST_COPIED = 128 * _MIB  # bytes that storage copies at one request, within its time limit


def part_size(size: int) -> int:
    """Bytes of each part of a file with that size: whole MiB, and so many that S3 allows as many parts."""
    return max(PART_SIZE, -(-size // _MOST_PARTS // _MIB) * _MIB)


def copied_parts(stored: int, size: int) -> list[int]:
    """The lengths of the parts to copy, when the object has the first `stored` bytes of a file of `size` bytes.

    The rest is sent in parts of `part_size`. Some storage wants all parts of one size, but for the last, which may
    be smaller. So if the rest is one such last part, what is copied is divided by itself; else into parts of
    `part_size`. Empty: nothing can be copied so.
    """
    if stored < WHOLE_SIZE:
        return []
    count = min(-(-stored // _MOST_COPIED), _MOST_PARTS)
    copied = stored // count
    if size - copied * count <= min(copied, part_size(size)):
        return [copied] * count
    part = part_size(size)
    return [part] * (stored // part)
