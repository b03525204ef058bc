"""`kelpie rehearse`: runs a command to its end once, then again with its machines lost, and compares.

    with scratch_folder() as root:
        report = Rehearsal(Plan(["python", "train.py"]), root).run()

A finding is a sentence about what would lose work, or results, on machines that vanish.
"""

from local_stack.rehearsal.judgement import Report
from local_stack.rehearsal.rehearsal import Plan, Rehearsal, RehearsalError

__all__ = ["Plan", "Rehearsal", "RehearsalError", "Report"]
