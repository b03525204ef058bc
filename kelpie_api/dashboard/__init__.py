"""The pages at /ui for people with a browser: in come forms and addresses, out go pages.

They call what the routes call, as the caller whose key the session was begun with, and are made by the server: no
script is needed.
"""
