"""The Salad instance that the worker runs on: takes SetDeletionCost, LeaveInstance and what other workers on it
publish, returns tokens, ids and Departed, and asks the metadata service for deletion costs and reallocations.
"""
