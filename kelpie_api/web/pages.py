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
    asked = {name: value for name in kept if (value := request.args.get(name))}
    return {"Link": f'<{request.path}?{urlencode(asked | {"cursor": following})}>; rel="next"'}
