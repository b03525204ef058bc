"""What the coordinator takes, and no more. It has the same numbers."""

LONGEST_NAME = 255  # characters of a machine, a container group, a project, a bucket
LONGEST_KEY = 1024  # bytes of an object's whole key, as S3 counts them
LONGEST_DETAIL = 1000  # characters of a report's reason, and of its sentence
LONGEST_PATTERN = 4096  # characters; a longer one could overflow the stack of the library that compiles it
LARGEST_OUTPUT = 65_536  # bytes of a report's output
LARGEST_PIECE = 65_536  # bytes of one piece of output
LARGEST_PROGRESS = 2048  # bytes of what a command says of its progress, as JSON
MOST_CHECKPOINT_FILES = 20_000
DEFAULT_HEARTBEAT_INTERVAL = 30  # seconds
LONGEST_HEARTBEAT_INTERVAL = 86_400
