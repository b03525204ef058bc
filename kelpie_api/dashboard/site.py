"""All pages together: each module gives its routes to the one blueprint when it is imported."""

from __future__ import annotations

from kelpie_api.dashboard import (
    groups,
    job,
    jobs,
    machines,
    output,
    overview,
    pages,
    settings,
    sign_in,
    sweeps,
    usage,
)

PAGES = (sign_in, overview, jobs, job, output, sweeps, groups, machines, usage, settings)
blueprint = pages.blueprint
