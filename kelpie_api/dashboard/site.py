"""All pages together: each module gives its routes to the one blueprint when it is imported."""

from __future__ import annotations

from kelpie_api.dashboard import groups, job, jobs, machines, overview, pages, sign_in, sweeps, usage

PAGES = (sign_in, overview, jobs, job, sweeps, groups, machines, usage)
blueprint = pages.blueprint
