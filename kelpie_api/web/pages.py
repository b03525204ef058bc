"""The `Link` header that leads from one page of a list to the next."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import request


def link_after(following: int | None) -> dict[str, str]:
    """A `Link` header to the next page of this path, with the page_size of this one; empty if there is none."""
    if following is None:
        return {}
    asked = {name: value for name in ("page_size",) if (value := request.args.get(name))}
    return {"Link": f'<{request.path}?{urlencode(asked | {"cursor": following})}>; rel="next"'}
