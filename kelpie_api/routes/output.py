"""What commands print (docs/design/protocol.md, Output)."""

from __future__ import annotations

from typing import Any

from flask import Response

from kelpie_api import metrics
from kelpie_api.db import Row
from kelpie_api.errors import NotTheHolder, PieceTooLarge
from kelpie_api.limits import LARGEST_PIECE
from kelpie_api.queue import output
from kelpie_api.queue.output import Reader, TooManyReaders
from kelpie_api.queue.states import Report
from kelpie_api.routes.work import admit_machine
from kelpie_api.schemas.fields import Failure
from kelpie_api.schemas.work import OutputQuery, PieceKept, PieceQuery
from kelpie_api.web.blueprint import Blueprint
from kelpie_api.web.body import whole_body
from kelpie_api.web.connection import client_is_gone
from kelpie_api.web.context import TEXT, caller, coordinator, db, here, identifier

blueprint = Blueprint("output", __name__, description="What commands print.")
CROWDED = "5"  # Retry-After, in seconds, for a reader that found no room to wait
BYTES = {"type": "string", "format": "binary"}
HEADERS = {"Kelpie-Next-Offset": TEXT, "Kelpie-Left-Out": TEXT, "Kelpie-Live": TEXT, "Retry-After": TEXT}


@blueprint.put("/jobs/<job_id>/output")
@blueprint.arguments(PieceQuery, location="query")
@blueprint.doc(requestBody={"content": {"application/octet-stream": {"schema": BYTES}}})
@blueprint.response(200, PieceKept)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
@blueprint.alt_response(409, schema=Failure)
@blueprint.alt_response(413, schema=Failure)
def keep_output(query: dict[str, Any], job_id: str) -> Row:
    """Send a piece of the output: the body, up to 65536 bytes, which begins at the offset `from`. A piece without
    bytes asks for the offset after all that came."""
    start = query.pop("start")
    report = Report(**query)
    here().machine_id, here().attempt = report.machine_id, report.attempt
    admit_machine(report.machine_id, report.container_group_id)
    content = whole_body()
    if len(content) > LARGEST_PIECE:
        raise PieceTooLarge(LARGEST_PIECE)
    try:
        return output.keep(db(), caller(), identifier(job_id, "job"), report, start, content)
    except NotTheHolder:
        metrics.report_refused("output")
        raise


@blueprint.get("/jobs/<job_id>/output")
@blueprint.arguments(OutputQuery, location="query")
@blueprint.response(
    200,
    BYTES,
    content_type="application/octet-stream",
    headers=HEADERS,
)
@blueprint.alt_response(400, schema=Failure)
@blueprint.alt_response(404, schema=Failure)
def get_output(query: dict[str, Any], job_id: str) -> Response:
    """Read the kept output of an attempt from the offset `from` on, up to the next bytes that were not kept:
    `Kelpie-Left-Out` says how many are missing before what is answered, `Kelpie-Next-Offset` where it goes on.
    With `wait` the answer is held back until there is more, and the output comes every second meanwhile if
    `Kelpie-Live` is true. With `download` all that is kept comes as one file."""
    the_id = identifier(job_id, "job")
    attempt = output.attempt_to_read(db(), caller(), the_id, query["attempt"])
    found = output.read(db(), the_id, attempt, query["start"], query["download"])
    headers: dict[str, str] = {}
    if query["wait"] and not query["download"] and not found.is_over:
        headers["Kelpie-Live"] = str(output.watch(db(), the_id, attempt)).lower()
        if found.next <= query["start"]:
            try:
                coordinator().readers.wait(Reader(the_id, attempt, query["start"]), query["wait"], client_is_gone)
            except TooManyReaders:
                headers["Retry-After"] = CROWDED
            found = output.read(db(), the_id, attempt, query["start"])
    headers |= {"Kelpie-Next-Offset": str(found.next), "Kelpie-Left-Out": str(found.left_out)}
    headers["Cache-Control"] = "no-store"
    if query["download"]:
        headers["Content-Disposition"] = f'attachment; filename="{the_id}-{attempt}.log"'
    # No browser takes what a command printed for a page of this site.
    return Response(found.content, headers=headers, mimetype="application/octet-stream")
