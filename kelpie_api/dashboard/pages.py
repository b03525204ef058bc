"""What all pages have in common: their blueprint, headers, files, and errors for people."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from flask import (
    Blueprint,
    Response,
    make_response,
    redirect,
    render_template,
    request,
    send_from_directory,
    stream_template,
    url_for,
)
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as NoSuchRoute
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api import logs
from kelpie_api.auth.caller import Caller, Role
from kelpie_api.dashboard import live, shown, states
from kelpie_api.errors import KelpieError, NotFound, NotSignedIn
from kelpie_api.queue.identity import IdempotencyKey
from kelpie_api.schemas.fields import RequestSchema
from kelpie_api.web import sessions
from kelpie_api.web.blueprint import PARSER
from kelpie_api.web.context import here, this_request
from kelpie_api.web.errors import TITLES, answer_error
from kelpie_api.web.errors import answer_http_error as answer_in_json

blueprint = Blueprint("dashboard", __name__, template_folder="templates")
STATIC = Path(__file__).parent / "static"
# As scripts/update-npm put them there, with their licences and hashes.
HTMX, UPLOT = Path(__file__).parent / "htmx", Path(__file__).parent / "uplot"
FOLDERS = (STATIC, HTMX, UPLOT)
TYPES = {".css": "text/css", ".svg": "image/svg+xml", ".js": "text/javascript"}
# Nothing inline, nothing from elsewhere, in no frame. A form's answer may lead to a page of ours only.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Referrer-Policy": "same-origin",  # without a referrer a form's Origin would be null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TOLD, TOLD_FOR, LONGEST_TOLD = "kelpie-told", 60, 600
MENU = (
    ("Overview", "/ui"),
    ("Jobs", "/ui/jobs"),
    ("Sweeps", "/ui/sweeps"),
    ("Groups", "/ui/groups"),
    ("Machines", "/ui/machines"),
    ("Usage", "/ui/usage"),
    ("Settings", "/ui/settings"),
)
OWN_PATH = re.compile(r"/ui(/[A-Za-z0-9_.-]+)*(\?[!-~]*)?")

for _name in shown.FILTERS:
    blueprint.add_app_template_filter(getattr(shown, _name), _name)


@blueprint.after_request
def guard(response: Response) -> Response:
    """Headers that keep a page from being framed, stored, or made to run what is not ours."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    live.tell_when_to_ask_again(response)
    return response


@blueprint.route("/", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def get_root() -> AnyResponse:
    """Lead a browser to the pages; to a program there is no such route, as to the original's."""
    wanted = request.accept_mimetypes.best_match(["application/json", "text/html"], "application/json")
    leads = wanted == "text/html" and request.method in ("GET", "HEAD")
    answer = redirect("/ui", 302) if leads else answer_in_json(NoSuchRoute())
    answer.vary.add("Accept")
    return answer


@blueprint.route("/ui", methods=["POST", "PUT", "PATCH", "DELETE"])
@blueprint.route("/ui/<path:name>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def get_nothing(name: str = "") -> Response:
    """For all methods, since an error of routing itself would be answered as the API answers it."""
    raise NotFound("There is no such page.")


@blueprint.get("/ui/assets/<name>")
def get_asset(name: str) -> Response:
    if name not in assets():
        raise NotFound("There is no such file.")
    folder = next(folder for folder in FOLDERS if (folder / name).is_file())
    answer = send_from_directory(folder, name, mimetype=TYPES[Path(name).suffix])
    answer.headers["Cache-Control"] = "public, max-age=86400"
    return answer


@cache
def assets() -> dict[str, str]:
    """The files that pages load, and of each a digest that its address carries: a new release is loaded anew."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        for folder in FOLDERS
        for file in folder.iterdir()
        if file.suffix in TYPES
    }


def asset(name: str) -> str:
    return url_for("dashboard.get_asset", name=name, v=assets()[name])


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A page, with what all of them show: whose session it is, and what the last form did."""
    caller: Caller | None = here().get("caller")
    secret = sessions.read_cookie(this_request(), sessions.SESSION) if caller else None
    told = unquote(sessions.read_cookie(this_request(), TOLD, 6 * LONGEST_TOLD) or "")
    given: dict[str, Any] = {
        "asset": asset,
        "caller": caller,
        "may_change": caller is not None and caller.role == Role.OPERATOR,
        "form_token": sessions.form_token(secret) if secret else None,
        "field": sessions.FIELD,
        "once": sessions.new_secret(),
        "frame": "base.html",
        "here": this_request().full_path.rstrip("?"),
        "refreshed": None,
        "told": told,
        "pages": MENU,
        "look_of_phase": states.look_of_phase,
        "look_of_outcome": states.look_of_outcome,
        "outcomes_of": outcomes_of,
    }
    if live.is_made() and "refreshed" in values:
        # What a browser has beside its session is of no part: others are shown the same.
        marks = {"frame": "fragment.html", "form_token": live.FORM_TOKEN, "once": live.ONCE, "told": ""}
        headers = {} if values["refreshed"] else {live.LAST: "true"}
        text = "".join(live.in_turns(stream_template(template, **given | values | marks)))
        return make_response(text, status, headers)
    response = make_response(render_template(template, **given | values), status)
    response.vary.add("HX-Request")
    if told:
        sessions.forget_cookie(response, TOLD)
    return response


def outcomes_of(attempts: Any) -> set[str]:
    """How the attempts of a picture ended, for its key."""
    return {bar.span.outcome for bar in attempts.picture.bars}


def lead_to(place: str, told: str | None = None) -> AnyResponse:
    """After a form: lead to a page, which tells what the form did."""
    answer = redirect(place, 303)
    if told:
        sessions.set_cookie(answer, TOLD, quote(told[:LONGEST_TOLD]), TOLD_FOR)
    return answer


def read(schema: RequestSchema) -> dict[str, Any]:
    """What the address asks for. Raises InvalidRequest."""
    loaded: dict[str, Any] = PARSER.read(schema, this_request(), "query")
    return loaded


def now() -> datetime:
    return datetime.now(UTC)


def once_of(text: str, meaning: str) -> IdempotencyKey | None:
    """The key of a form, so that one that is sent twice, as by a double click, acts once. None without one."""
    if not re.fullmatch("[A-Za-z0-9_-]{20,60}", text):
        return None
    return IdempotencyKey(f"page-{text}", hashlib.sha256(meaning.encode()).digest())


def own_path(text: str) -> str:
    """A page to go to after signing in, of ours only: the text was in an address."""
    return text if OWN_PATH.fullmatch(text) else "/ui"


@blueprint.errorhandler(KelpieError)
def answer_refusal(error: KelpieError) -> AnyResponse:
    """A refusal as a page. Without a session a page leads to where one is begun."""
    answer_error(error)  # forgets remembered keys of a user that was removed
    if isinstance(error, NotSignedIn) and request.method in ("GET", "HEAD") and not live.is_asked_for():
        wanted = own_path(request.full_path.rstrip("?"))
        return redirect(url_for("dashboard.get_sign_in", to=None if wanted == "/ui" else wanted), 303)
    response = page("refused.html", error.status, title=error.title, message=error.message)
    response.headers.update(error.headers())
    return response


@blueprint.errorhandler(HTTPException)
def answer_http_error(error: HTTPException) -> Response:
    title, message = TITLES.get(error.code or 500, (error.name, error.description or error.name))
    return page("refused.html", error.code or 500, title=title, message=message)


@blueprint.errorhandler(Exception)
def answer_bug(error: Exception) -> Response:
    """A defect: the log has its traceback, the page only the request id."""
    logs.error("request_failed", error, request_id=here().get("request_id"), path=request.path)
    message = f"This is a defect; report request {here().get('request_id')}."
    return page("refused.html", 500, title="Internal Server Error", message=message)
