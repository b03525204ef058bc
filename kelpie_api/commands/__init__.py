"""The commands of `kelpie-server`, a file each: a command line and the settings come in, a program's work and its
exit code go out."""
