"""The coordinator as the worker calls it: in come claims and reports to make, out come its answers. The only
room that imports requests.
"""
