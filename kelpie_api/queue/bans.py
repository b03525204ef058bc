"""Which failures ban a machine from a job, and count towards the reallocation of the machine as well."""

from __future__ import annotations

# Failure reasons that are the job's own fault, not the machine's: five misspelt buckets must not have a healthy
# fleet reallocated (docs/design/protocol.md, Bad machines).
JOBS_OWN_FAULTS = {"not_found", "not_started", "download", "pattern", "worker_broken"}
