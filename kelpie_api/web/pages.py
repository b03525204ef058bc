"""The `Link` header that leads from one page of a list to the next."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlencode

from flask import request


def link_after(following: int | str | None, kept: Collection[str] = ("page_size",)) -> dict[str, str]:
    """A `Link` header to the next page of this path, by its cursor; empty if there is none.

    `kept` are the parameters of this request that hold for the next page, too.
    """
    if following is None:
        return {}
    asked = {name: values for name in kept if (values := [value for value in request.args.getlist(name) if value])}
    query = urlencode(asked | {"cursor": [following]}, doseq=True)
    return {"Link": f'<{request.path}?{query}>; rel="next"'}
