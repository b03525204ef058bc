"""The user's command: in come Run and Stop, out come Started and Exited, with the masked end of its output."""
