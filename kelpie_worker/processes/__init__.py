"""The worker's processes: in come commands for a child, out come its messages; one that dies or hangs is
replaced.
"""
