"""Webhooks: in come rows of the outbox, out go signed requests to receivers, and the log of every try."""
