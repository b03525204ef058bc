"""How fast the queue is, and whether it stays so: programs to run by hand (bench/README.md)."""
