"""The commands of `kelpie-server`, one file each: in come arguments and settings, out go a program's work and its
exit code."""
