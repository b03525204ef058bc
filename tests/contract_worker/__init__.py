"""The worker held to its contract from outside: its process, the wire, the bucket, its files; never its code."""
