"""Directories that are uploaded while the command writes to them. Takes scans of the disk; commits generations of
files to the bucket, deletes the objects of files that the command removed, and reports manifests.
"""
