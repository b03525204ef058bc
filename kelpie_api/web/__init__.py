"""What surrounds one request: in come HTTP requests, out go answers in one shape; routes are called in between."""
