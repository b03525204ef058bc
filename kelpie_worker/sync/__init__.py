"""A job's files before, during and after its command, in the child process `uploader`. In come the commands
Download, Watch, Flush, Stage, Upload and Wipe; out goes a message with the result of each.
"""
