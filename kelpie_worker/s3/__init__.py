"""The bucket: in come keys and bytes, out come objects, or errors in a few classes of our own. The only room
that imports botocore.
"""
