"""The demo: takes real jobs, runs them on a whole Kelpie while its parts are killed, and returns a comparison of
every output byte with that of a run without Kelpie.

Start at `__main__`.
"""
