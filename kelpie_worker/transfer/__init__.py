"""Uploads of single files in two steps: takes one version of a file, sends its bytes invisibly, and returns an
upload whose commit makes them an object.
"""
