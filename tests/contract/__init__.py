"""The coordinator seen from outside, and held to its contract.

Nothing here imports the coordinator: a live gunicorn and its webhook sender are spoken to over HTTP. The tables
in these modules stand in the contract's order, so that the two can be read side by side.
"""
