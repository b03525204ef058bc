"""Sweeps: a list of them, and one with its jobs as a grid of cells."""

from __future__ import annotations

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.dashboard.pages import blueprint, lead_to, page, read
from kelpie_api.dashboard.states import PHASES
from kelpie_api.db import SQL
from kelpie_api.errors import InvalidRequest, NotFound
from kelpie_api.queue import sweeps
from kelpie_api.schemas.sweeps import MOST_PARALLEL, SweepQuery
from kelpie_api.web import sessions
from kelpie_api.web.body import whole_body
from kelpie_api.web.context import caller, db, identifier, this_request

PAGE = 50
MOST_CELLS = 2000
QUERY = SweepQuery()


@blueprint.get("/ui/sweeps")
def list_sweeps() -> Response:
    """A page of sweeps, newest first."""
    found, before = sweeps.list_page(db(), caller(), PAGE, read(QUERY)["before"])
    return page("sweeps.html", sweeps=found, before=before, is_later="cursor" in request.args)


@blueprint.get("/ui/sweeps/<sweep_id>")
def get_sweep(sweep_id: str) -> Response:
    """One sweep, each of its jobs a cell."""
    sweep = sweeps.get(db(), caller(), identifier(sweep_id, "sweep"))
    cells = db().all(SQL.list_cells, sweep_id=sweep["id"], most=MOST_CELLS)
    phases = [(phase, sweep["phases"][phase]) for phase in PHASES if sweep["phases"].get(phase)]
    return page("sweep.html", sweep=sweep, cells=cells, phases=phases, most_parallel=MOST_PARALLEL)


@blueprint.post("/ui/sweeps/<sweep_id>/<verb>")
def change_sweep(sweep_id: str, verb: str) -> AnyResponse:
    """A button of a sweep: how many of its jobs may be in hand, and its closing."""
    whole_body()
    sessions.require_own_form(this_request())
    the_id = identifier(sweep_id, "sweep")
    if verb == "close":
        sweeps.change(db(), caller(), the_id, {"closed": True})
        told = "The sweep is closed: it takes no more jobs."
    elif verb == "limit":
        limit = limit_of(request.form.get("max_parallel", ""))
        sweeps.change(db(), caller(), the_id, {"max_parallel": limit})
        told = f"{limit} of its jobs may be in hand at a time." if limit else "All of its jobs may be in hand."
    else:
        raise NotFound("There is no such button.")
    return lead_to(f"/ui/sweeps/{the_id}", told)


def limit_of(text: str) -> int | None:
    """A limit from a form; None: none. Raises InvalidRequest."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MOST_PARALLEL):
        raise InvalidRequest(f"The limit is a whole number from 1 to {MOST_PARALLEL:,}, or empty for none.")
    return int(text)
