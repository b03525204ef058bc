"""The demo: real jobs on a whole Kelpie, real kills, and a comparison of every output byte.

Start at `__main__`.
"""
