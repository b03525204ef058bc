"""The job's directories on disk: takes their paths, and scans them, reads versions of their files, sets them aside
for the upload and empties them.
"""
