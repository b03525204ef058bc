"""The instance that the worker runs on: in come messages of the supervisor, out go deletion costs and
reallocations.
"""
