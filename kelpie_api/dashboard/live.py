"""The live part of a page, which its script asks for again and again: made once for all tabs that show the same.

A thousand open tabs are not to make claims slow (`bench.tabs`). So a part serves for half of the time after which
a tab asks again, a process makes one at a time and rests in between, and a tab for which there is no room is told
that there is nothing new. A tab asks no sooner than that time after its page was loaded, so it is never shown what
is older than its page: also not after a form, whichever process answered it. Where many tabs ask, each is told to
ask later.

Each look is still authenticated by a statement, half of what a shared part costs, so that a session ends at once
in all processes.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from functools import wraps
from math import ceil
from typing import ParamSpec

from flask import Response, make_response

from kelpie_api.web import sessions
from kelpie_api.web.context import caller, coordinator, here, this_request
from kelpie_api.web.live_parts import Part

Arguments = ParamSpec("Arguments")
View = Callable[Arguments, Response]
ASK_AFTER = "Kelpie-Ask-After"  # seconds until a tab asks again, where that is later than usually
TURN = 0.001  # seconds after which a part that is made lets the other threads of the process go on
LAST = "HX-Refresh"  # of a page that is to be loaded anew, as one that is not refreshed any more
# What differs from session to session is written as these marks, which no text of others can have.
FORM_TOKEN, ONCE = secrets.token_urlsafe(32), secrets.token_urlsafe(32)


def is_asked_for() -> bool:
    """Whether a page that is open asks for its live part alone."""
    return "HX-Request" in this_request().headers


def is_made() -> bool:
    """Whether this request makes a part, whose marks `live` replaces."""
    return bool(here().get("makes_part"))


def live(seconds: float) -> Callable[[View[Arguments]], View[Arguments]]:
    """For a view whose page asks for its live part after so many seconds.

    It may look at the address and the caller alone, but not at the caller's key: see `what_is_seen`.
    """

    def decorate(view: View[Arguments]) -> View[Arguments]:
        @wraps(view)
        def answer(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
            if not is_asked_for():
                return view(*args, **kwargs)
            here().makes_part = True
            parts = coordinator().live_parts
            part = parts.get(what_is_seen(), seconds / 2, lambda: as_part(view(*args, **kwargs)), own_token())
            return make_response("", 204) if part is None else answer_with(part)

        return answer

    return decorate


def what_is_seen() -> Hashable:
    """The address, and all of a caller but the key, so that colleagues with keys of their own share a part."""
    request, seer = this_request(), caller()
    groups = None if seer.groups is None else tuple(seer.groups)
    # A digest, since an address may be long, and there may be many.
    place = hashlib.sha256(repr((request.path, request.query_string)).encode()).digest()
    return place, groups, replace(seer, groups=None, sealed_key=None, key_id=None, key_name=None)


def in_turns(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a part, with pauses in which claims have the interpreter: otherwise they wait 5 ms for it."""
    began = time.monotonic()
    for piece in pieces:
        yield piece
        if time.monotonic() - began > TURN:
            time.sleep(TURN)
            began = time.monotonic()


def as_part(response: Response) -> Part:
    content = response.get_data()
    digest = hashlib.sha256(content.replace(FORM_TOKEN.encode(), b"").replace(ONCE.encode(), b"")).digest()
    return Part(content, response.status_code, LAST in response.headers, digest)


def answer_with(part: Part) -> Response:
    """For the session of this request: 304 where its page has this part already."""
    token = own_token()
    etag = hashlib.sha256(part.digest + token).hexdigest()[:32]
    if part.status == 200 and this_request().if_none_match.contains_weak(etag):
        response = make_response(b"", 304)
    else:
        content = part.content.replace(FORM_TOKEN.encode(), token)
        response = make_response(content.replace(ONCE.encode(), sessions.new_secret().encode()), part.status)
    if part.is_last:
        response.headers[LAST] = "true"
    response.set_etag(etag)
    response.vary.add("HX-Request")
    return response


def own_token() -> bytes:
    """What the forms of the session of this request carry, by which it is known here, too."""
    return sessions.form_token(sessions.read_cookie(this_request(), sessions.SESSION) or "").encode()


def tell_when_to_ask_again(response: Response) -> None:
    """Have the tab ask later where this process is asked by many. For each answer to one of a session: others, of
    which there may be any number, must not keep tabs waiting, and a session that asks in a loop no others."""
    if not (is_asked_for() and here().get("caller")):
        return
    seconds = ceil(coordinator().pace_of_tabs.next_pause(own_token()))
    if seconds > 1:
        response.headers[ASK_AFTER] = str(seconds)
