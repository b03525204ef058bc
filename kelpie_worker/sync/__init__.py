"""A job's files before, during and after its command: in come Download, Watch, Flush and Upload, out come their
results.
"""
