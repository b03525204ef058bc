"""One file's way up: in comes one version of a file, out comes an object that was prepared unseen and then
committed.
"""
