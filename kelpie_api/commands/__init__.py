"""The commands of `kelpie-server`, a file for each name in `server.COMMANDS`: in come arguments and settings, out
go a program's work and its exit code.
"""
