"""The cookie of a session at the pages, and the proof that a form was made for it (docs/pages.md, Signing in).

A form carries a token that is derived from a secret cookie, so that a page of another origin, which can read
neither, can send no form. The form for signing in has no session yet, and a cookie of its own.
"""

from __future__ import annotations

import hmac
import secrets
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Request
from werkzeug.wrappers import Response

from kelpie_api.auth import sessions
from kelpie_api.auth.caller import Caller
from kelpie_api.errors import Forbidden, NotSignedIn
from kelpie_api.web.context import coordinator, db, this_request

PAGES = "dashboard."  # how their endpoints begin
SESSION, SIGN_IN = "kelpie", "kelpie-form"
LONGEST_TOKEN = 200  # characters
SIGNING_IN_TAKES = 3600  # seconds for which the form is good
FIELD = "form_token"
STALE = "This form is not of this session, or too old; load the page again, and send it from there."


def is_page(endpoint: str | None) -> bool:
    """Whether an endpoint is one of the pages, which know callers by a session and no header."""
    return endpoint is not None and endpoint.startswith(PAGES)


def caller_of(request: Request) -> Caller:
    """The caller of a session's cookie. Raises NotSignedIn, Unavailable."""
    token = read_cookie(request, SESSION)
    if token is None:
        raise NotSignedIn
    authenticator = coordinator().authenticator
    caller = sessions.caller_of(db(), authenticator, token)
    authenticator.key_uses.note(caller.key_id)
    return caller


def is_https(request: Request) -> bool:
    """Whether the browser came by https: as this connection says, or a proxy that is believed, or because this is
    the host of a KELPIE_PUBLIC_URL with https."""
    config = coordinator().config
    last = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    public = [urlsplit(url) for url in config.public_urls]
    return (
        request.is_secure
        or (config.proxies > 0 and last == "https")
        or any(url.scheme == "https" and url.netloc.lower() == request.host.lower() for url in public)
    )


def require_safe_connection(request: Request) -> None:
    """Raise Forbidden where a key or a cookie would travel for all to read, unless the operator allows it."""
    if is_https(request) or coordinator().config.pages_over_http or is_loopback(request.host):
        return
    raise Forbidden(
        "Keys and cookies can be read on their way here, since this is no https. Come by https; behind a proxy set"
        " KELPIE_PUBLIC_URL, or KELPIE_PAGES_OVER_HTTP=true in a network that you trust."
    )


def is_loopback(host: str) -> bool:
    """Whether a host of an address, or an address itself, is this machine."""
    name = urlsplit(f"//[{host}]" if host.count(":") > 1 and "[" not in host else f"//{host}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def cookie_name(request: Request, name: str) -> str:
    """With the prefix browsers keep such a cookie for this host alone, and send it by https only."""
    return f"__Host-{name}" if is_https(request) else name


def read_cookie(request: Request, name: str, longest: int = LONGEST_TOKEN) -> str | None:
    value = request.cookies.get(cookie_name(request, name), "")
    return value if 0 < len(value) <= longest and value.isascii() else None


def set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
    """A cookie that no script reads and no other site's form brings along."""
    request = this_request()
    response.set_cookie(
        cookie_name(request, name),
        value,
        max_age=seconds,
        path="/",
        secure=is_https(request),
        httponly=True,
        samesite="Lax",
    )


def forget_cookie(response: Response, name: str) -> None:
    set_cookie(response, name, "", 0)


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def form_token(secret: str) -> str:
    """What a form carries: derived from the secret of a cookie, which it does not tell."""
    return hmac.digest(secret.encode(), b"kelpie form", "sha256").hex()


def require_own_form(request: Request, cookie: str = SESSION) -> None:
    """Raise Forbidden for a form that no page of ours made for this cookie."""
    require_own_origin(request)
    secret = read_cookie(request, cookie)
    given = request.form.get(FIELD, "")
    if secret is None or not hmac.compare_digest(given.encode(), form_token(secret).encode()):
        raise Forbidden(STALE)


def require_own_origin(request: Request) -> None:
    """Raise Forbidden where the browser says that a page of another origin sent the form."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = {request.host, *(urlsplit(url).netloc for url in coordinator().config.public_urls)}
    if site not in (None, "same-origin", "none") or (origin is not None and urlsplit(origin).netloc not in own):
        raise Forbidden(STALE)
