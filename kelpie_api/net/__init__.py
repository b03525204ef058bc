"""Outgoing HTTP: in come an address and a deadline, out goes a reply or NoAnswer."""
