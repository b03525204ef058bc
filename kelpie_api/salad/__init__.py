"""Salad's public API: in come a key and a container group's name, out goes what Salad says of it; all requests
with the coordinator's own key share one budget.
"""
