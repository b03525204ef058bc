"""Proof of a request's caller: in come its headers, out goes a Caller that names user, project and machine."""
