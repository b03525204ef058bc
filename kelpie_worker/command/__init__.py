"""The user's command: takes Run, Stop, Terminate and FollowOutput, answers Started, Progressed, Printed, Exited.

Secrets are masked in all that is told of it.
"""
