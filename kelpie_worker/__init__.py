"""The worker: claims jobs, runs them, and gets their files to the bucket whatever happens to the machine.

Read `messages.py` first, `pipeline.py` second; the rest follows from those two.
"""
