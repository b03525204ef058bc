"""The peer of bench.api: a route of Flask that answers a constant, and nothing else."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__, static_folder=None)


@app.get("/")
def answer() -> dict[str, str]:
    return {"message": "alive"}
