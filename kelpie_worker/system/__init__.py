"""Operating system calls, and the frozen binary: takes paths, descriptors and process ids, returns what the system
says of them. Small functions that know nothing of jobs.
"""
