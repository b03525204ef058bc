"""The worker's child processes: takes commands for a child, passes its messages on, and replaces a child that dies
or hangs.
"""
