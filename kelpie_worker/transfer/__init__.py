"""Uploads of single files in two steps: the bytes of one version of a file are sent invisibly, then committed as
an object.
"""
