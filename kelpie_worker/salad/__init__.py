"""The Salad instance that the worker runs on: takes the supervisor's messages; sets deletion costs and asks for
reallocation.
"""
