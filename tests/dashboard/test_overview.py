"""The first page: what needs a person, the week, the fleet (docs/pages.md, The overview)."""

from __future__ import annotations

import re
import uuid

import pytest

from kelpie_api.dashboard import overview
from kelpie_api.db import SQL, Database
from tests.dashboard.browser import Browser
from tests.helpers import Tenant, make_job, make_rule


def needs(browser: Browser) -> dict[str, str]:
    """What the page says needs a person, and where each line leads."""
    text = browser.get("/ui").text
    listed = re.search(r'<ul class="needs">.*?</ul>', text, re.DOTALL)
    found = re.findall(r'<a href="([^"]*)">(.*?)</a>', listed[0], re.DOTALL) if listed else []
    return {
        " ".join(re.sub(r"<[^>]*>", " ", words).split()): place.replace("&amp;", "&") for place, words in found
    }


def test_a_quiet_project_needs_no_person(operator: Browser, db: Database, tenant: Tenant) -> None:
    for state in ("pending", "held", "waiting", "completed", "canceled"):
        make_job(db, tenant, state)
    assert needs(operator) == {} and "Nothing. No job is stalled" in operator.page("/ui").text
    assert "no rules" in operator.page("/ui").text


def test_open_jobs_are_counted_by_the_phase_that_each_has(db: Database, tenant: Tenant) -> None:
    for group in ("g1", "g2", None):
        for state in ("pending", "pending", "waiting", "held", "failed"):
            make_job(db, tenant, state, group=group)
        make_job(db, tenant, "held", group=group, silent_for=100_000)
        db.execute(
            "update queue set parked = '{hold}' where seq = ("
            "select max(seq) from queue where parked is null and machine_id is null and rank & 1 = 1)"
        )
    db.execute("update queue set phase = 'stalled' where seq = (select max(seq) from queue where rank = 0)")
    db.execute(
        "insert into paused_groups (tenant_id, container_group, by) values (%(id)s, 'g2', 'user:acme')",
        id=tenant.caller.tenant_id,
    )
    counted = {row["phase"]: row["jobs"] for row in db.all(SQL.count_phases, **tenant.caller.scope)}
    one_by_one = db.all("select phase, count(*) as jobs from job_phases group by phase")
    assert counted == {row["phase"]: row["jobs"] for row in one_by_one} and len(counted) >= 4


def test_each_line_of_what_needs_a_person_leads_to_those_jobs(
    operator: Browser, rival: Browser, db: Database, tenant: Tenant
) -> None:
    ids = {name: make_job(db, tenant, name=name) for name in ("held", "blocked", "other")}
    ids |= {name: make_job(db, tenant, "held", name=name) for name in ("torn", "clean", "stalled")}
    ids |= {name: make_job(db, tenant, "failed", name=name) for name in ("failed", "old")}
    ids |= {name: make_job(db, tenant, "completed", name=name) for name in ("given_up", "retried", "told", "late")}
    values = {name.replace("-", "_"): job_id for name, job_id in ids.items()}
    for statement in (
        "update queue set parked = '{hold}' where job_id = %(held)s",
        "update queue set banned = true, blocked_since = now() where job_id = %(blocked)s",
        "update queue set phase = 'stalled' where job_id = %(stalled)s",
        "insert into events (job_id, kind, actor, attempt, detail)"
        " values (%(torn)s, 'resumed', 'machine:m1', 2, '{\"checkpoint\": \"torn\"}'),"
        "        (%(torn)s, 'resumed', 'machine:m1', 3, '{\"checkpoint\": \"torn\"}'),"
        "        (%(clean)s, 'resumed', 'machine:m1', 2, '{\"checkpoint\": \"clean\"}')",
        "insert into webhooks (job_id, url, status, machine_id, container_group, user_id, lane, tries, next_try,"
        "                      delivered, given_up)"
        " select w.job_id::uuid, 'https://example.com', 'completed', 'm1', 'g1', %(user)s, gen_random_uuid(),"
        "        w.tries, w.next_try, w.delivered, w.given_up"
        "   from (values (%(given_up)s, 9, null, null, now()),"
        "                (%(given_up)s, 9, null, null, now()),"
        "                (%(retried)s, 1, now() + interval '1 minute', null, null),"
        "                (%(told)s, 1, null, now(), null),"
        "                (%(late)s, 0, now(), null, null)) w (job_id, tries, next_try, delivered, given_up)",
    ):
        db.execute(statement, **values, user=tenant.caller.user_id)
    with db.transaction() as tx:  # past the trigger that guards what has ended
        tx.execute("set local session_replication_role = replica")
        tx.execute("update jobs set failed = now() - interval '2 days' where id = %(old)s", **values)
    found = needs(operator)
    assert [words.split(" ")[0] for words in found] == ["1", "1", "1", "1", "1", "2"]
    names = [["stalled"], ["failed"], ["blocked"], ["held"], ["torn"], ["given_up", "retried"]]
    for (words, place), expected in zip(found.items(), names, strict=True):
        listed = operator.get(place).text
        assert [name for name in ids if f"<bdi>{name}</bdi>" in listed] == expected, words
    assert needs(rival) == {}


def test_more_jobs_than_a_link_can_name_are_counted_and_the_newest_named(
    operator: Browser, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST", 4)
    monkeypatch.setattr(overview, "NAMED", 2)
    for number in range(6):
        make_job(db, tenant, name=f"n{number}")
    db.execute("update queue set parked = '{hold}'")
    [(words, place)] = needs(operator).items()
    assert words.startswith("4+ held") and "the newest 2" in operator.page("/ui").text
    assert re.findall(r"<bdi>(n\d)</bdi>", operator.get(place).text) == ["n5", "n4"]


def test_the_week_and_the_fleet_add_up(operator: Browser, rival: Browser, db: Database, tenant: Tenant) -> None:
    db.execute(
        "insert into usage_of_days (tenant_id, day, container_group, machine_id, sweep_id, outcome, attempts,"
        "                           held, useful, lost, money)"
        " select %(tenant)s, (now() at time zone 'UTC')::date - n, 'g1', 'm1', %(none)s, 'interrupted', 1,"
        "        36000, 27000, 9000, 2 from generate_series(0, 7) n",
        tenant=tenant.caller.tenant_id,
        none=uuid.UUID(int=0),
    )
    make_rule(db, tenant, "97f504e8-6de6-4322-b5d5-1777a59a7ad3")
    rule = make_rule(db, tenant, "97f504e8-6de6-4322-b5d5-1777a59a7ad4")
    db.execute(
        "insert into scaling_decisions (tenant_id, container_group_id, desired_replicas, action, outcome)"
        " values (%(tenant)s, %(group)s, 7, 'none', 'ok'), (%(tenant)s, %(group)s, 5, 'none', 'ok')",
        tenant=tenant.caller.tenant_id,
        group=rule["container_group_id"],
    )
    db.execute(
        "insert into machines (tenant_id, container_group, machine_id, last_seen)"
        " select %(tenant)s, 'g1', 'm' || n, now() - n * interval '6 minutes' from generate_series(0, 3) n",
        tenant=tenant.caller.tenant_id,
    )
    text = re.sub(r"\s+", " ", operator.page("/ui").text)
    assert "kept52.5 h" in text and "lost17.5 h 25.0 %" in text and "cost14.00" in text
    assert "wanted by scaling rules5" in text and "alive2" in text
    assert "kept–" in rival.page("/ui").text
