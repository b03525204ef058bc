"""Signing in with a key, and out (docs/pages.md, Signing in)."""

from __future__ import annotations

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from kelpie_api.auth import sessions as kept_sessions
from kelpie_api.dashboard.pages import blueprint, lead_to, own_path, page
from kelpie_api.errors import Forbidden, KelpieError, NotFound, NotSignedIn
from kelpie_api.web import sessions
from kelpie_api.web.body import whole_body
from kelpie_api.web.context import coordinator, db, this_request
from kelpie_api.web.requests import client_address


@blueprint.get("/ui/sign-in")
def get_sign_in() -> Response:
    """The form for a key."""
    return form(own_path(request.args.get("to", "")))


def form(to: str, refusal: KelpieError | None = None) -> Response:
    """The form, with a cookie that its token is derived from, and why the last try was refused."""
    secret = sessions.read_cookie(this_request(), sessions.SIGN_IN) or sessions.new_secret()
    response = page(
        "sign_in.html",
        refusal.status if refusal else 200,
        to=to,
        form_token=sessions.form_token(secret),
        refusal=refusal and refusal.message,
        with_salad="salad_key" in request.form,
        organization=request.form.get("organization", ""),
        project=request.form.get("project", ""),
    )
    sessions.set_cookie(response, sessions.SIGN_IN, secret, sessions.SIGNING_IN_TAKES)
    if refusal:
        response.headers.update(refusal.headers())
    return response


@blueprint.post("/ui/sign-in")
def sign_in() -> AnyResponse:
    """Begin a session for the key in the form."""
    coordinator().require_current_schema()
    whole_body()
    to = own_path(request.form.get("to", ""))
    try:
        sessions.require_safe_connection(this_request())
        sessions.require_own_form(this_request(), sessions.SIGN_IN)
        token = begin_with_salad_key() if "salad_key" in request.form else begin_with_kelpie_key()
    except KelpieError as refusal:
        return form(to, refusal)
    return begun(to, token)


def begun(to: str, token: str) -> AnyResponse:
    """Lead to a page, with the cookie of a new session."""
    answer = lead_to(to)
    sessions.set_cookie(answer, sessions.SESSION, token, int(kept_sessions.LIFETIME.total_seconds()))
    sessions.forget_cookie(answer, sessions.SIGN_IN)
    return answer


def begin_with_kelpie_key() -> str:
    parts = coordinator()
    key = request.form.get("key", "").strip()
    caller = parts.authenticator.of_kelpie_key(key, client_address(this_request(), parts.config.proxies))
    return kept_sessions.begin(db(), caller)


def begin_with_salad_key() -> str:
    authenticator = coordinator().authenticator
    key, organization, project = (
        request.form.get(name, "").strip() for name in ("salad_key", "organization", "project")
    )
    caller = authenticator.of_salad_key(key, organization, project)
    return kept_sessions.begin_with_salad_key(db(), authenticator.seal, caller, key)


@blueprint.get("/ui/once")
def get_once() -> Response:
    """The button for a token that stands in the address behind `#`, where no server is told of it."""
    require_local_stack()
    return once_form()


def once_form(refusal: KelpieError | None = None) -> Response:
    secret = sessions.read_cookie(this_request(), sessions.SIGN_IN) or sessions.new_secret()
    values = {"form_token": sessions.form_token(secret), "refusal": refusal and refusal.message}
    response = page("once.html", refusal.status if refusal else 200, **values)
    sessions.set_cookie(response, sessions.SIGN_IN, secret, sessions.SIGNING_IN_TAKES)
    return response


@blueprint.post("/ui/once")
def sign_in_once() -> AnyResponse:
    """Begin the session of a token, which is good for nothing from here on."""
    require_local_stack()
    whole_body()
    try:
        sessions.require_own_form(this_request(), sessions.SIGN_IN)
        return begun("/ui", kept_sessions.begin_once(db(), request.form.get("token", "").strip()))
    except NotSignedIn:
        return once_form(Forbidden("This address was used already, or is too old; sign in with the key instead."))
    except KelpieError as refusal:
        return once_form(refusal)


def require_local_stack() -> None:
    """Raise NotFound but where a local stack asks for it, and a browser of this machine."""
    is_here = sessions.is_loopback(request.host) and sessions.is_loopback(request.remote_addr or "")
    if not (coordinator().config.one_time_sign_in and is_here):
        raise NotFound("There is no such page.")


@blueprint.post("/ui/sign-out")
def sign_out() -> AnyResponse:
    """End the session: its cookie is good for nothing from here on."""
    whole_body()
    sessions.require_own_form(this_request())
    if token := sessions.read_cookie(this_request(), sessions.SESSION):
        kept_sessions.end(db(), token)
    answer = lead_to("/ui/sign-in")
    sessions.forget_cookie(answer, sessions.SESSION)
    answer.headers["Clear-Site-Data"] = '"cache"'
    return answer
