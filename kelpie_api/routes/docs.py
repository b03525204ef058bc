"""The document at /openapi.json, and Swagger UI at /docs; no asset from elsewhere, no inline script."""

from __future__ import annotations

import json
from pathlib import Path

from flask import Blueprint, Response, make_response, render_template_string, send_from_directory

from kelpie_api.errors import NotFound
from kelpie_api.routes import (
    bulk,
    health,
    jobs,
    keys,
    machines,
    metrics,
    output,
    progress,
    scaling,
    secrets,
    steering,
    sweeps,
    usage,
    users,
    webhooks,
    work,
)
from kelpie_api.web.openapi import ApiDocument
from kelpie_api.web.yaml import as_yaml

blueprint = Blueprint("docs", __name__)
# The routes that the document describes, in its order.
DOCUMENTED = [
    room.blueprint
    for room in (
        jobs,
        bulk,
        steering,
        progress,
        output,
        sweeps,
        work,
        machines,
        usage,
        scaling,
        webhooks,
        keys,
        secrets,
        users,
        health,
        metrics,
    )
]
DOCUMENT = ApiDocument(DOCUMENTED)

# Swagger UI's own files, as scripts/update-swagger-ui put them here, with their licence and their hashes.
SWAGGER_UI = Path(__file__).parents[1] / "swagger_ui"
ASSETS = {
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "favicon-16x16.png",
    "favicon-32x32.png",
}
START = "start.js"

# `unsafe-inline` is for the style attributes in rendered descriptions.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>Kelpie API</title>
    <link rel="stylesheet" href="{{ url_for('docs.get_asset', name='swagger-ui.css') }}">
    <link rel="stylesheet" href="{{ url_for('dashboard.get_asset', name='docs.css') }}">
    <link rel="icon" type="image/svg+xml" href="{{ url_for('dashboard.get_asset', name='kelpie.svg') }}">
  </head>
  <body>
    <header class="top">
      <a class="brand" href="/ui">
        <img src="{{ url_for('dashboard.get_asset', name='kelpie.svg') }}" alt="" width="26" height="26">Kelpie
      </a>
      <nav aria-label="Places">
        <a href="/ui">Pages</a>
        <a href="/docs" aria-current="page">API</a>
        <a href="/openapi.yaml">openapi.yaml</a>
      </nav>
    </header>
    <div id="api" data-document="{{ url_for('docs.get_document') }}"></div>
    <script src="{{ url_for('docs.get_asset', name='swagger-ui-bundle.js') }}"></script>
    <script src="{{ url_for('docs.get_asset', name='start.js') }}"></script>
  </body>
</html>
"""

# validatorUrl: null keeps the document from being sent to Swagger's own validator.
STARTING = """"use strict";
// Swagger UI is dark by a class, where the pages follow the browser.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
SwaggerUIBundle({
  url: document.getElementById("api").dataset.document,
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
// Each form of the dialog takes the focus when it is drawn, so that the last one would have it, and be in sight.
const dialog = () => document.querySelector(".modal-ux-content");
function begin() {
  dialog()?.querySelector("input")?.focus();
  dialog()?.scrollTo(0, 0);
}
addEventListener("click", () => dialog() || setTimeout(begin), true);
"""


@blueprint.get("/openapi.json")
def get_document() -> Response:
    return Response(DOCUMENT.text(), mimetype="application/json")


@blueprint.get("/openapi.yaml")
def get_yaml() -> Response:
    return Response(as_yaml(json.loads(DOCUMENT.text())), mimetype="application/yaml")


@blueprint.get("/docs")
@blueprint.get("/redocs")  # where the original's documentation was
def get_page() -> Response:
    """The page; its Authorize dialog asks for the security schemes of the document."""
    return guarded(make_response(render_template_string(PAGE)), "no-cache")


@blueprint.get("/docs/<name>")
def get_asset(name: str) -> Response:
    if name == START:
        return guarded(Response(STARTING, mimetype="text/javascript"), "no-cache")
    if name not in ASSETS:
        raise NotFound(f"There is no file {name[:100]} here; the documentation is at /docs.")
    return guarded(send_from_directory(SWAGGER_UI, name), "public, max-age=86400")


def guarded(response: Response, kept: str) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = kept
    return response
