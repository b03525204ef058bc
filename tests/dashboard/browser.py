"""A browser as the server sees it: it keeps cookies, follows where it is led, and sends the forms of pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from kelpie_api.dashboard.pages import POLICY
from tests.helpers import Tenant

VOID = {"meta", "link", "input", "img", "br", "hr"}


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, Any]
    buttons: list[str] = field(default_factory=list)


class Markup(HTMLParser):
    """What is in a page: forms, links, text, elements. Each element is closed before the one that it is in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []  # their addresses; empty for one that stands in the page
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        self.attributes += found
        self.links += [found[name] for name in ("href", "src") if name in found]
        if tag == "script":
            self.scripts.append(found.get("src", ""))
        if tag == "form":
            self.forms.append(Form(found.get("action", ""), found.get("method", "get"), {}))
        elif tag == "input" and self.forms and "name" in found and found.get("type") != "checkbox":
            self.forms[-1].fields[found["name"]] = found.get("value", "")
        if tag == "button" and self.forms:
            self.forms[-1].buttons.append(found.get("value", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass
class Browser:
    http: FlaskClient

    def get(self, path: str, status: int = 200, **headers: str) -> TestResponse:
        answer = self.http.get(path, headers=headers)
        assert answer.status_code == status, answer.text
        harmless(answer)
        return answer

    def page(self, path: str) -> Markup:
        return Markup(self.get(path).text)

    def form(self, path: str, action: str) -> Form:
        """The first form of a page that is sent to this address."""
        return next(form for form in self.page(path).forms if form.action == action)

    def post(self, path: str, fields: dict[str, Any], status: int = 303, **headers: str) -> TestResponse:
        answer = self.http.post(path, data=fields, headers=headers)
        assert answer.status_code == status, answer.text
        harmless(answer)
        return answer

    def sign_in(self, key: str, status: int = 303, to: str = "/ui") -> TestResponse:
        fields = self.form(f"/ui/sign-in?to={to}", "/ui/sign-in").fields
        return self.post("/ui/sign-in", fields | {"key": key}, status)

    def told(self, answer: TestResponse) -> str:
        """The text of the page that an answer leads to."""
        return self.page(answer.headers["Location"]).text


def harmless(answer: TestResponse) -> None:
    """The headers of all pages, and nothing in a page that its policy would have to stop."""
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
    if answer.mimetype == "text/html" and not 300 <= answer.status_code < 400:
        assert answer.headers["Cache-Control"] == "no-store"
        markup = Markup(answer.text)
        assert not {"style", "iframe", "object", "embed", "base"} & {*markup.tags}
        assert all(source.startswith("/ui/assets/") for source in markup.scripts)
        assert not [name for name in markup.attributes if name.startswith("on") or name == "style"]
        assert all(link.startswith(("/", "#", "?")) and not link.startswith("//") for link in markup.links)


def signed_in(app: Flask, tenant: Tenant) -> Browser:
    browser = Browser(app.test_client())
    browser.sign_in(tenant.key)
    return browser
