"""HTTP around the routes: in come requests, out go callers and checked bodies to the routes, answers to clients.

The OpenAPI document is made here.
"""
