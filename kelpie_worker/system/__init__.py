"""Operating system calls, and the frozen binary: small functions that know nothing of jobs."""
