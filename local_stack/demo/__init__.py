"""The demo: real jobs on a whole Kelpie, real kills, and a comparison byte by byte. Start at `__main__`."""
