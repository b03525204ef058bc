"""Directories that are sent while the command writes to them: in come scans of the disk, out go committed
generations and deletes.
"""
