"""Handling of HTTP requests around the routes: access, bodies, errors, CORS, the OpenAPI document."""
