"""The worker: claims jobs, runs them, and keeps their files in the bucket, so that a lost machine costs little.

Read `messages.py` first, `pipeline.py` second and `supervisor.py` third.
"""
