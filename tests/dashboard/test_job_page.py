"""The page of one job: its picture, its buttons, and what may stand in it (docs/pages.md, One job)."""

from __future__ import annotations

import html
import json
import re
import uuid
from typing import Any
from uuid import UUID

import pytest

from kelpie_api.db import Database
from tests.dashboard.browser import Browser, Markup
from tests.helpers import Client, Tenant, make_job, row, rows_of_jobs

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&"
HOSTILE = f"{MARKUP}\u202egnp.exe\u2066"
T0 = 1_796_040_060  # seconds since 1970, one minute after noon of 2026-11-30
VERBS = ("hold", "resume", "interrupt", "cancel", "rerun")


def buttons(page: Markup) -> list[str]:
    return [form.action.rpartition("/")[2] for form in page.forms if form.action.startswith("/ui/jobs/")]


def press(browser: Browser, job_id: object, verb: str, status: int = 303) -> str:
    """Press the first button of this name; the text of the page that follows."""
    form = browser.form(f"/ui/jobs/{job_id}", f"/ui/jobs/{job_id}/{verb}")
    answer = browser.post(form.action, form.fields, status)
    return browser.told(answer) if status == 303 else answer.text


class TestThePicture:
    def test_has_a_bar_for_each_attempt_with_its_checkpoints_and_what_was_lost(
        self, api: Client, operator: Browser, db: Database
    ) -> None:
        job = api.submit(name="lora")
        for machine in ("m1", "m2"):
            claimed = api.claim(machine)
            assert claimed
            checkpoint(api, claimed["id"], machine, claimed["attempt"])
            if machine == "m1":
                db.execute(
                    "update attempts set claimed = claimed - interval '1 hour' where job_id = %(id)s", id=job["id"]
                )
                assert api.report(job, "released", machine, attempt=1).status_code == 200
        page = operator.page(f"/ui/jobs/{job['id']}")
        assert page.text.count("Attempt 1 on m1: released after 1 h") == 1
        assert "Attempt 2 on m2: goes on" in page.text
        text = operator.get(f"/ui/jobs/{job['id']}").text
        assert text.count('class="bar ') == 2 and text.count('class="mark"') >= 2

    def test_is_not_there_before_the_first_attempt(self, api: Client, operator: Browser) -> None:
        page = operator.page(f"/ui/jobs/{api.submit()['id']}")
        assert "Why it waits" in page.text and "It can be claimed now" in page.text
        assert "pattern" not in page.tags

    def test_of_many_attempts_shows_the_newest(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "held", attempt=1000)
        db.execute(
            "insert into attempts"
            " (job_id, number, machine_id, container_group, claimed, ended, outcome, held, lost)"
            " select %(id)s, n, 'm1', 'g1', now() - (1000 - n) * interval '1 minute',"
            "        now() - (1000 - n) * interval '1 minute' + interval '30 s', 'interrupted', 30, 10"
            "   from generate_series(1, 999) n",
            id=job_id,
        )
        text = operator.get(f"/ui/jobs/{job_id}").text
        assert text.count('class="bar ') == 300 and "700 earlier attempts" in text


def checkpoint(api: Client, job_id: str, machine: str, attempt: int, generation: int = 1) -> None:
    report = {"machine_id": machine, "container_group_id": "g1", "attempt": attempt, "generation": generation}
    answer = api.call("PUT", f"/jobs/{job_id}/checkpoint", {**report, "files": [{"key": "c/w", "size": 1}]})
    assert answer.status_code == 200, answer.text


def test_checkpoints_leave_marks_that_lie_apart(api: Client, db: Database) -> None:
    job = api.submit()
    assert api.claim()
    db.execute("update attempts set claimed = now() - interval '10 hours' where job_id = %(id)s", id=job["id"])
    for generation in (1, 2, 2, 3):
        checkpoint(api, job["id"], "m1", 1, generation)
    assert len(db.all("select from checkpoint_marks where job_id = %(id)s", id=job["id"])) == 1
    db.execute(
        "update checkpoint_marks set at = at - interval '5 minutes'"
    )  # more than a two-hundredth of ten hours
    checkpoint(api, job["id"], "m1", 1, 3)  # told again: no other checkpoint
    assert len(db.all("select from checkpoint_marks where job_id = %(id)s", id=job["id"])) == 1
    checkpoint(api, job["id"], "m1", 1, 4)
    assert len(db.all("select from checkpoint_marks where job_id = %(id)s", id=job["id"])) == 2


class TestButtons:
    def test_hold_and_resume(self, api: Client, operator: Browser, db: Database) -> None:
        job = api.submit()
        assert "Job held" in press(operator, job["id"], "hold")
        assert (row(db, "queue", job["id"]) or {})["parked"] == ["hold"]
        assert "Job resumed" in press(operator, job["id"], "resume")
        assert (row(db, "queue", job["id"]) or {})["parked"] is None
        [event] = db.all("select actor from events where kind = 'unparked'")
        assert event["actor"].startswith("user:acme")

    def test_interrupt(self, api: Client, operator: Browser) -> None:
        job = api.submit()
        answer = api.get("/work?machine_id=m1&container_group_id=g1&speaks=steer")
        assert answer.json
        assert "told to save and to give the job back" in press(operator, job["id"], "interrupt")

    def test_cancel(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "pending")
        assert "Job canceled" in press(operator, job_id, "cancel")
        assert (row(db, "jobs", job_id) or {})["status"] == "canceled"

    def test_rerun_leads_to_the_new_job(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "completed", name="again")
        assert "new job" in press(operator, job_id, "rerun")
        [again] = db.all("select id from jobs where rerun_of = %(id)s", id=job_id)
        assert again

    def test_rerun_pressed_twice_makes_one_job(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "completed")
        form = operator.form(f"/ui/jobs/{job_id}", f"/ui/jobs/{job_id}/rerun")
        places = {operator.post(form.action, form.fields).headers["Location"] for _ in range(2)}
        assert len(places) == 1 and len(db.all("select from jobs")) == 2

    def test_what_is_told_once_is_not_told_again(self, api: Client, operator: Browser) -> None:
        job = api.submit()
        press(operator, job["id"], "hold")
        assert "Job held" not in operator.page(f"/ui/jobs/{job['id']}").text

    def test_a_button_that_comes_too_late_is_refused_with_a_sentence(self, api: Client, operator: Browser) -> None:
        job = api.submit()
        form = operator.form(f"/ui/jobs/{job['id']}", f"/ui/jobs/{job['id']}/hold")
        api.delete(f"/jobs/{job['id']}")
        assert "canceled already" in operator.post(form.action, form.fields, 409).text

    @pytest.mark.parametrize(
        ("state", "there"),
        [
            ("pending", ["hold", "cancel"]),
            ("held", ["hold", "interrupt", "interrupt", "cancel", "cancel"]),
            ("completed", ["rerun", "rerun"]),
        ],
    )
    def test_are_those_that_the_job_has_use_for(
        self, operator: Browser, db: Database, tenant: Tenant, state: str, there: list[str]
    ) -> None:
        assert buttons(operator.page(f"/ui/jobs/{make_job(db, tenant, state)}")) == there


class TestAViewer:
    def test_reads_the_page_without_a_button(self, viewer: Browser, db: Database, tenant: Tenant) -> None:
        for state in ("pending", "held", "failed"):
            assert buttons(viewer.page(f"/ui/jobs/{make_job(db, tenant, state)}")) == []

    def test_is_refused_with_a_form_of_its_own_making(self, viewer: Browser, db: Database, tenant: Tenant) -> None:
        jobs = [make_job(db, tenant, state) for state in ("pending", "held", "completed")]
        token = viewer.form("/ui", "/ui/sign-out").fields
        before = rows_of_jobs(db)
        for job_id in jobs:
            for verb in VERBS:
                viewer.post(f"/ui/jobs/{job_id}/{verb}", token, 403)
        assert rows_of_jobs(db) == before

    def test_reads_no_value_of_an_environment(self, viewer: Browser, api: Client) -> None:
        job = api.submit(environment={"TOKEN": "hf_secret"})
        for query in ("", "?environment=shown"):
            page = viewer.page(f"/ui/jobs/{job['id']}{query}")
            assert "TOKEN" in page.text and "hf_secret" not in page.text


def test_values_of_an_environment_are_hidden_until_they_are_asked_for(operator: Browser, api: Client) -> None:
    job = api.submit(environment={"TOKEN": "hf_secret"})
    page = operator.page(f"/ui/jobs/{job['id']}")
    assert "TOKEN" in page.text and "hf_secret" not in page.text
    assert f"/ui/jobs/{job['id']}?environment=shown" in page.links
    assert "hf_secret" in operator.page(f"/ui/jobs/{job['id']}?environment=shown").text


def test_another_tenants_job_is_an_unknown_one(
    rival: Browser, operator: Browser, db: Database, tenant: Tenant
) -> None:
    job_id = make_job(db, tenant, "held", name="secret-name")
    token, before = rival.form("/ui", "/ui/sign-out").fields, rows_of_jobs(db)
    foreign = rival.get(f"/ui/jobs/{job_id}", 404).text
    unknown = uuid.uuid4()
    assert foreign.replace(str(job_id), str(unknown)) == rival.get(f"/ui/jobs/{unknown}", 404).text
    for verb in VERBS:
        rival.post(f"/ui/jobs/{job_id}/{verb}", token, 404)
    assert rows_of_jobs(db) == before


@pytest.mark.parametrize("fields", [{}, {"form_token": "0" * 64}])
def test_a_form_without_the_sessions_token_changes_nothing(
    operator: Browser, db: Database, tenant: Tenant, fields: dict[str, Any]
) -> None:
    job_id, before = make_job(db, tenant, "pending"), rows_of_jobs(db)
    before = rows_of_jobs(db)
    for verb in VERBS:
        operator.post(f"/ui/jobs/{job_id}/{verb}", fields, 403)
    assert rows_of_jobs(db) == before


def test_no_address_changes_anything_by_being_opened(operator: Browser, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "pending")
    before = rows_of_jobs(db)
    for verb in VERBS:
        operator.get(f"/ui/jobs/{job_id}/{verb}", 404)
    assert rows_of_jobs(db) == before


def test_an_unknown_button_is_a_404(operator: Browser, db: Database, tenant: Tenant) -> None:
    job_id = make_job(db, tenant, "pending")
    operator.post(f"/ui/jobs/{job_id}/explode", operator.form("/ui", "/ui/sign-out").fields, 404)
    operator.get("/ui/jobs/no-id", 404)


class TestHostileText:
    """`Browser.get` looks at each page for what would run."""

    def test_in_everything_that_others_choose(
        self, api: Client, operator: Browser, viewer: Browser, db: Database
    ) -> None:
        job = api.submit(
            name=MARKUP,
            labels={"note": HOSTILE},
            command=HOSTILE,
            arguments=[HOSTILE] * 3,
            environment={"X": HOSTILE},
            container_group_id="g1",
            secrets=[],
        )
        assert api.claim(HOSTILE.replace("\u202e", "").replace("\u2066", ""))
        db.execute(
            "update attempts set machine_id = %(text)s, reason = %(text)s, detail = %(text)s, output = %(text)s"
            " where job_id = %(id)s",
            text=HOSTILE,
            id=job["id"],
        )
        db.execute(
            "insert into events (job_id, kind, actor, attempt) values (%(id)s, 'noted', %(text)s, 1)",
            text=HOSTILE,
            id=job["id"],
        )
        for browser in (operator, viewer):
            text = browser.get(f"/ui/jobs/{job['id']}?environment=shown").text
            assert "<img src=x" not in text and "\u202e" not in text and "\u2066" not in text
            assert "&lt;img src=x onerror=alert(1)&gt;" in text

    def test_in_output_of_a_megabyte(self, api: Client, operator: Browser, db: Database) -> None:
        job = api.submit(keep_output=2**20)
        assert api.claim()
        put_output(db, UUID(job["id"]), f"\x1b[31m{HOSTILE}\x1b[0m\n".encode() * 20_000)
        answer = operator.get(f"/ui/jobs/{job['id']}")
        assert len(answer.text) < 200_000
        assert "&lt;img src=x" in answer.text and "\x1b" not in answer.text and "\u202e" not in answer.text

    def test_in_progress(self, api: Client, operator: Browser, db: Database) -> None:
        job = api.submit()
        assert api.claim()
        for step in (1, 2):
            said = {
                "fraction": 0.5,
                "step": step,
                "message": HOSTILE,
                "metrics": {f"{MARKUP[:40]}": 1e308 * (-1) ** step},
            }
            answer = api.report(job, "heartbeat", attempt=1, progress=said)
            assert answer.status_code == 200, answer.text
            db.execute("update progress set last_point = last_point - interval '1 hour'")
        answer = operator.get(f"/ui/jobs/{job['id']}")
        assert "<img src=x" not in answer.text and "50.0 %" in answer.text
        assert [json.loads(one) for one in charts(answer.text)] == [[0.5, 0.5], [-1e308, 1e308]]


def charts(text: str) -> list[str]:
    """The values of each chart of a page, in JSON."""
    return [html.unescape(one) for one in re.findall(r'data-values="([^"]*)"', text)]


def test_progress_and_metrics_are_drawn_over_all_attempts_with_and_without_a_script(
    api: Client, operator: Browser, db: Database
) -> None:
    job = api.submit()
    assert api.claim()
    place = f"/ui/jobs/{job['id']}"
    assert charts(operator.get(place).text) == []
    assert [name for name in operator.page(place).scripts if "uPlot" in name] == []
    db.execute(
        "insert into progress_points (job_id, number, attempt, at, fraction, metrics)"
        " select %(id)s, n, case when n < 3 then 1 else 2 end,"
        "        '2026-11-30 12:00Z'::timestamptz + n * interval '1 min',"
        "        0.25 * n, case when n = 2 then '{\"acc\": 1}'::json"
        "                       else json_build_object('loss', 1.0 / n) end"
        "   from generate_series(1, 4) n",
        id=job["id"],
    )
    text = operator.get(place).text
    assert [json.loads(one) for one in charts(text)] == [[0.25, 0.5, 0.75, 1.0], [1.0, None, 0.333333, 0.25]]
    assert f'data-at="[{T0}.0, {T0 + 60}.0, {T0 + 120}.0, {T0 + 180}.0]"' in text
    assert f'data-begins="[[{T0 + 120}.0, 2]]"' in text
    assert text.count('<path d="M0.0 ') == 2 and "25 % to 100 %" in text and "0.25 to 1" in text
    names = [source.partition("?")[0].rpartition("/")[2] for source in operator.page(place).scripts]
    assert names == ["htmx.min.js", "live.js", "uPlot.iife.min.js", "charts.js"]


def put_output(db: Database, job_id: UUID, content: bytes) -> None:
    values = {"id": job_id, "size": len(content), "content": content}
    db.execute(
        "insert into outputs (job_id, attempt, tenant_id, next, kept)"
        " select id, 1, tenant_id, %(size)s, %(size)s from jobs where id = %(id)s",
        **values,
    )
    db.execute(
        "insert into output_pieces (job_id, attempt, start, content) values (%(id)s, 1, 0, %(content)s)", **values
    )


def test_the_end_of_the_output_is_shown_from_a_line_on(api: Client, operator: Browser, db: Database) -> None:
    job = api.submit(keep_output=2**20)
    assert api.claim()
    put_output(db, UUID(job["id"]), b"".join(b"line %06d\n" % number for number in range(10_000)))
    text = operator.page(f"/ui/jobs/{job['id']}").text
    assert "line 009999" in text and "line 000001" not in text
    [shown] = re.findall(r"KiB left out\n(.*)", text)
    assert re.fullmatch(r"line \d{6}", shown)


def test_output_that_came_with_the_report_is_shown_where_none_is_kept(api: Client, operator: Browser) -> None:
    job = api.submit()
    assert api.claim()
    assert api.report(job, "failed", attempt=1, exit_code=1, output="Traceback: no such file").status_code == 202
    assert "Traceback: no such file" in operator.page(f"/ui/jobs/{job['id']}").text


class TestWebhooks:
    def add(self, db: Database, tenant: Tenant, job_id: UUID, tries: int, **fields: Any) -> UUID:
        """A webhook of a job that failed so many times."""
        made = db.one_or_none(
            "insert into webhooks (job_id, url, event, status, machine_id, container_group, user_id, lane, tries,"
            "                      next_try, given_up, last_status, last_error)"
            " values (%(job)s, %(url)s, 'failed', 'failed', 'm1', 'g1', %(user)s, gen_random_uuid(), %(tries)s,"
            "         %(next)s, case when %(next)s::timestamptz is null then now() end, %(status)s, %(error)s)"
            " returning id",
            job=job_id,
            user=tenant.caller.user_id,
            tries=tries,
            **{"url": "https://example.com/", "next": None, "status": 500, "error": None} | fields,
        )
        assert made
        db.execute(
            "insert into deliveries (webhook_id, number, answer, error)"
            " select %(id)s, n, %(status)s, %(error)s from generate_series(1, %(tries)s) n",
            id=made["id"],
            tries=tries,
            **{"status": 500, "error": None}
            | {name: fields[name] for name in fields if name in ("status", "error")},
        )
        found: UUID = made["id"]
        return found

    def test_are_shown_with_their_tries_and_sent_again(
        self, operator: Browser, db: Database, tenant: Tenant
    ) -> None:
        job_id = make_job(db, tenant, "failed")
        webhook = self.add(db, tenant, job_id, 25)
        page = operator.page(f"/ui/jobs/{job_id}")
        assert "given up" in page.text and "25 tries · last answer 500" in page.text
        assert page.text.count(" 500") == 11
        form = operator.form(f"/ui/jobs/{job_id}", f"/ui/jobs/{job_id}/webhooks/{webhook}")
        assert "delivered again" in operator.told(operator.post(form.action, form.fields))
        assert db.all("select given_up, next_try <= now() as due from webhooks") == [
            {"given_up": None, "due": True}
        ]

    def test_of_others_are_not_sent_and_a_viewer_sees_no_password(
        self, operator: Browser, viewer: Browser, rival: Browser, db: Database, tenant: Tenant
    ) -> None:
        job_id, other = make_job(db, tenant, "failed"), make_job(db, tenant, "failed")
        webhook = self.add(db, tenant, job_id, 1, url="https://anna:secret@example.com/")
        text = viewer.page(f"/ui/jobs/{job_id}").text
        assert "example.com" in text and "secret" not in text and "Send again" not in text
        assert "anna:secret" in operator.page(f"/ui/jobs/{job_id}").text
        for browser, status in ((viewer, 403), (rival, 404)):
            fields = browser.form("/ui", "/ui/sign-out").fields
            browser.post(f"/ui/jobs/{job_id}/webhooks/{webhook}", fields, status)
        fields = operator.form("/ui", "/ui/sign-out").fields
        for place in (f"{other}/webhooks/{webhook}", f"{job_id}/webhooks/{uuid.uuid4()}", f"{job_id}/webhooks/x"):
            operator.post(f"/ui/jobs/{place}", fields, 404)
        operator.post(f"/ui/jobs/{job_id}/webhooks/{webhook}", {}, 403)
        assert db.all("select from webhooks where given_up is null") == []

    def test_a_hostile_receiver_is_text(self, operator: Browser, db: Database, tenant: Tenant) -> None:
        job_id = make_job(db, tenant, "failed")
        self.add(db, tenant, job_id, 2, url=f"https://example.com/{HOSTILE}", error=HOSTILE * 20_000)
        text = operator.get(f"/ui/jobs/{job_id}").text
        assert "<script>" not in text and "<img src=x" not in text and "\u202e" not in text
        assert len(text) < 40_000
