"""The whole of Kelpie on one machine, for the demo, rehearsals, `kelpie dev` and tests: takes what is to be
started, and returns real processes with their addresses.
"""
