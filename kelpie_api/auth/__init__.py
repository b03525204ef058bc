"""Authentication: in come a request's headers, out goes a Caller that names user, project and machine."""
