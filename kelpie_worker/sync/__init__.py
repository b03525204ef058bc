"""A job's files before, during and after its command, in the child process `uploader`.

Takes the commands Download, Watch, Flush, Stage, Upload and Wipe, and answers each with a message of its result.
"""
