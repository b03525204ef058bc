"""`kelpie rehearse`: takes a command, runs it to its end once, then again with its machines lost, and returns a
report that compares the two.

    from local_stack.rehearsal.rehearsal import Plan, Rehearsal

    with scratch_folder() as root:
        report = Rehearsal(Plan(["python", "train.py"]), root).run()

A finding of the report is a sentence about what would lose work, or results, on machines that vanish.
"""
