"""Object storage: takes keys and bytes, returns objects or raises a few error classes of its own. The only package
that imports boto3 and botocore.
"""
