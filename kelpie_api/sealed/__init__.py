"""What jobs are given and only their commands may read: in come secrets and environments, out go sealed rows, and
what a claim hands out.
"""
