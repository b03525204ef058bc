"""The commands of `kelpie`: options come in, and calls of the client, tables and JSON are what goes out."""
