"""Directories that are sent while the command writes to them. In come scans of the disk; out go generations of
files that are committed to the bucket, deletes of what the command removed, and the manifest of what is whole.
"""
