"""The user's command: takes Run and Stop, answers Started and Exited.

Its reported output has its secrets masked.
"""
