"""The job's directories on disk: in come the paths of a job, out come scans, versions of files, and directories
set aside or emptied.
"""
