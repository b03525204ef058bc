"""The queue of jobs: in come submissions, claims and reports of a known caller, out go rows and events of the
database.
"""
