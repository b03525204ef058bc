"""What a job prints, while it prints it: pieces that an open page asks for one after the other.

An answer is held back until there is more, as for readers of the API. Pages may take half of the places that these
have, and none of those where workers wait for jobs. A page that finds no place is answered at once, and asks again
some seconds later.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Response, make_response, render_template, request

from kelpie_api.dashboard.pages import blueprint
from kelpie_api.dashboard.states import FINAL
from kelpie_api.db import Row
from kelpie_api.errors import InvalidRequest
from kelpie_api.queue import listing, output
from kelpie_api.queue.output import Output, Reader, TooManyReaders
from kelpie_api.web.connection import client_is_gone
from kelpie_api.web.context import caller, coordinator, db, identifier

MOST_AT_ONCE = 65_536  # bytes of one answer, the newest
LONGEST_OPEN_LINE = 16_384  # bytes of a line without an end, which is sent again until it has one
WAIT = 20.0  # seconds for which an answer is held back
SOON, LATER = 1, 5  # seconds until a page asks again: where it can wait for the answer, and where it cannot
MOST_DIGITS = 18


@dataclass(frozen=True)
class Piece:
    """Some output: lines that have ended, and one that has not; and where the page goes on, if it does.

    `start` is the offset of the open line, `seen` that after all that the page has; `pause` is in seconds, None:
    there will be no more.
    """

    attempt: int
    left_out: int
    whole: bytes
    open: bytes
    next_attempt: int
    start: int
    seen: int
    pause: int | None

    @classmethod
    def first(cls, attempt: int) -> Piece:
        """Nothing yet; the page asks from the beginning on."""
        return cls(attempt, 0, b"", b"", attempt, 0, 0, SOON)


@blueprint.get("/ui/jobs/<job_id>/output")
def get_output(job_id: str) -> Response:
    """What came after an offset, as a part of the page of a job, with what asks for the next."""
    the_id = identifier(job_id, "job")
    attempt, start, seen = asked("attempt"), asked("from"), asked("seen")
    job = listing.get(db(), caller(), the_id)
    if not 1 <= attempt <= job["attempt"]:
        raise InvalidRequest(f"There is no attempt {attempt} of this job; load its page again.")
    found = output.tail(db(), the_id, attempt, MOST_AT_ONCE, start)
    has_room = True
    if not found.is_over:
        output.watch(db(), the_id, attempt)
        if found.next <= seen:
            has_room = wait(Reader(the_id, attempt, seen))
            job = listing.get(db(), caller(), the_id)
            found = output.tail(db(), the_id, attempt, MOST_AT_ONCE, start)
    piece = piece_of(job, attempt, found, has_room)
    return make_response(render_template("output_piece.html", job_id=the_id, piece=piece))


def asked(name: str) -> int:
    """A number of the address. Raises InvalidRequest."""
    text = request.args.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise InvalidRequest(f"{name} is a whole number; load the page of the job again.")
    return int(text)


def wait(reader: Reader) -> bool:
    """Wait until there may be more; whether there was room for that."""
    parts = coordinator()
    if not parts.room_for_pages.acquire(blocking=False):
        return False
    try:
        parts.readers.wait(reader, WAIT, client_is_gone)
    except TooManyReaders:
        return False
    finally:
        parts.room_for_pages.release()
    return True


def piece_of(job: Row, attempt: int, found: Output, has_room: bool = True) -> Piece:
    """What is shown of the output of an attempt that was found from an offset on."""
    if found.is_over:
        whole, newest = ended(found.content), job["attempt"]
        if newest > attempt:
            return Piece(attempt, found.left_out, whole, b"", newest, 0, 0, SOON)
        pause = None if job["phase"] in FINAL else LATER
        return Piece(attempt, found.left_out, whole, b"", attempt, found.next, found.next, pause)
    cut = found.content.rfind(b"\n") + 1
    if len(found.content) - cut > LONGEST_OPEN_LINE:
        cut = len(found.content)
    whole, open_line = found.content[:cut], found.content[cut:]
    pause = SOON if has_room else LATER
    start = found.next - len(open_line)
    return Piece(attempt, found.left_out, whole, open_line, attempt, start, found.next, pause)


def ended(text: bytes) -> bytes:
    """With the end of its last line, so that a line of ours can follow."""
    return text if not text or text.endswith(b"\n") else text + b"\n"
