"""Limits of the wire; the worker has the same numbers (a test compares them)."""

LONGEST_NAME = 255  # characters of a machine, a container group, a project, a bucket
LONGEST_KEY = 1024  # of an object; the worker and S3 count bytes, so no key is longer in characters
LONGEST_DETAIL = 1000  # characters of a report's reason, and of its sentence
LARGEST_OUTPUT = 65_536  # of a report's output; the worker counts bytes, so none is longer in characters
LARGEST_PROGRESS = 2048  # bytes of an object, as JSON without blanks
LARGEST_PIECE = 65_536  # bytes of output
MOST_CHECKPOINT_FILES = 20_000
# Characters of a pattern. Its compiler recurses once for each `|` and would overflow the stack, which ends the
# process. 4096 bars need half a MiB of the 8 MiB that a thread has; nested groups the compiler limits itself.
LONGEST_PATTERN = 4096
DEFAULT_HEARTBEAT_INTERVAL = 30  # seconds
LONGEST_HEARTBEAT_INTERVAL = 86_400
