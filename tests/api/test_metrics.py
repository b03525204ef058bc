"""What /metrics shows, and what it must not show."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
import requests
from flask import Flask
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from kelpie_api import metrics
from kelpie_api.db import Database
from kelpie_api.web import gunicorn_worker
from local_stack.processes import CHECKOUT, scratch_folder, wait_for
from local_stack.stack import LocalStack
from tests.helpers import Client, Tenant, make_job

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """0 where nothing was counted yet."""
    return samples.get((f"kelpie_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def scrape(app: Flask) -> Client:
    return Client(app.test_client(), None)


def scraped(client: Client) -> Samples:
    """The metrics as they are now: what was measured before is forgotten."""
    client.http.application.extensions.pop("kelpie-queue-gauges", None)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    return parsed(answer.text)


def test_a_request_is_counted_under_its_routes_template(api: Client, scrape: Client) -> None:
    labels = {"method": "GET", "route": "/jobs/<job_id>", "status": "200"}
    job = api.submit()
    before = value(scraped(scrape), "http_request_duration_seconds_count", **labels)
    api.get(f"/jobs/{job['id']}")
    api.get(f"/jobs/{job['id']}/")
    assert value(scraped(scrape), "http_request_duration_seconds_count", **labels) == before + 2


def test_requests_to_unknown_paths_make_no_new_labels(api: Client, scrape: Client) -> None:
    api.get("/nothing")
    api.call("BREW", "/jobs")
    scraped(scrape)  # the first one is in the second
    known = scraped(scrape).keys()
    for number in range(5):
        api.get(f"/nothing/{number}")
        api.call(f"BREW{number}", "/jobs")
    assert scraped(scrape).keys() - known == set()


def test_claims_are_counted_by_what_they_brought(api: Client, scrape: Client) -> None:
    before = scraped(scrape)
    api.submit()
    for _ in range(3):
        api.claim()
    after = scraped(scrape)
    gained = [
        value(after, "claims_total", outcome=o) - value(before, "claims_total", outcome=o)
        for o in ("job", "empty")
    ]
    assert gained == [1, 2]


@pytest.mark.parametrize("report", ["heartbeat", "completed", "failed", "released"])
@pytest.mark.parametrize("attempt", [7, None])
def test_a_refused_report_is_counted_by_its_kind(
    api: Client, scrape: Client, db: Database, tenant: Tenant, report: str, attempt: int | None
) -> None:
    job = {"id": make_job(db, tenant, "held")}
    before = value(scraped(scrape), "refused_reports_total", report=report)
    api.report(job, report, machine="somebody else", attempt=attempt)
    assert value(scraped(scrape), "refused_reports_total", report=report) == before + 1
    api.report(job, report, attempt=1)
    assert value(scraped(scrape), "refused_reports_total", report=report) == before + 1


def test_the_queue_is_counted_by_state_over_all_tenants(
    api: Client, stranger: Client, scrape: Client, db: Database, tenant: Tenant
) -> None:
    stranger.submit()
    for state, number in {
        "pending": 2,
        "held": 4,
        "waiting": 1,
        "completed": 1,
        "failed": 1,
        "canceled": 1,
    }.items():
        for _ in range(number):
            make_job(db, tenant, state)
    make_job(db, tenant, "held", silent_for=86_400)
    found = scraped(scrape)
    assert [value(found, "queue_jobs", state=state) for state in ("pending", "running", "waiting")] == [3, 5, 1]
    assert value(found, "lapsed_leases") == 1
    assert value(found, "database_up") == 1


def test_the_oldest_pending_job_has_an_age(scrape: Client, db: Database, tenant: Tenant) -> None:
    assert value(scraped(scrape), "oldest_pending_seconds") == 0
    job = make_job(db, tenant)
    make_job(db, tenant)
    db.execute("update jobs set created = now() - interval '1 hour' where id = %(id)s", id=job)
    assert 3600 <= value(scraped(scrape), "oldest_pending_seconds") < 3700


def test_the_outbox_has_a_depth_and_an_age(api: Client, scrape: Client, db: Database) -> None:
    assert value(scraped(scrape), "webhooks_unfinished") == 0
    for _ in range(2):
        api.submit(webhook="http://receiver.example/")
        api.claim()
    db.execute("update webhooks set next_try = now() + interval '1 hour'")
    later = scraped(scrape)
    assert value(later, "webhooks_unfinished") == 2
    assert value(later, "webhooks_oldest_due_seconds") == 0
    db.execute(
        "update webhooks set next_try = now() - interval '1 hour' where seq = (select min(seq) from webhooks)"
    )
    assert 3600 <= value(scraped(scrape), "webhooks_oldest_due_seconds") < 3700


def test_asking_often_asks_the_database_seldom(
    scrape: Client, db: Database, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "FRESH", 3600.0)
    first = scraped(scrape)
    make_job(db, tenant)
    again = parsed(scrape.get("/metrics").text)
    assert value(again, "queue_jobs", state="pending") == value(first, "queue_jobs", state="pending") == 0


def test_a_slow_measurement_is_told_longer(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    queue, asked = metrics.QueueGauges(db), []

    def slow() -> None:
        asked.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr(queue, "_measure", slow)
    for moment in (10.0, 20.0, 60.0, 62.0):
        clock[0] = max(clock[0], moment)
        list(queue.collect())
    assert asked == [10.0, 62.0]


@pytest.mark.parametrize("pool_of_app", [None])  # one of its own, which ends with it
def test_without_the_database_the_rest_is_still_told(app: Flask, api: Client, scrape: Client) -> None:
    api.submit()
    parts = app.extensions["kelpie"]
    parts.end()  # no connection is to be had any more
    found = scraped(scrape)
    assert value(found, "database_up") == 0
    assert not [name for name, _ in found if name.startswith(("kelpie_queue", "kelpie_webhooks", "kelpie_oldest"))]
    assert [name for name, _ in found if name == "kelpie_http_request_duration_seconds_count"]


def test_no_tenant_job_machine_or_key_is_named(api: Client, scrape: Client, tenant: Tenant) -> None:
    job = api.submit(container_group_id="canary-group", webhook="http://canary-receiver/")
    api.claim("canary-machine", "canary-group")
    api.report(job, "failed", machine="canary-other", reason="canary-reason", attempt=9)
    text = scrape.get("/metrics").text
    for secret in ("canary", job["id"], tenant.key, tenant.caller.username, str(tenant.caller.user_id)):
        assert secret not in text


def counted_file(folder: Path, name: str, **values: float) -> None:
    file = MmapedDict(str(folder / name))
    for key, number in values.items():
        file.write_value(key, number, 0.0)
    file.close()


def test_what_an_ended_process_counted_is_kept_in_one_file(tmp_path: Path) -> None:
    counted_file(tmp_path, "counter_11.db", a=1, b=2)
    counted_file(tmp_path, "counter_12.db", a=10)
    counted_file(tmp_path, "counter_13.db", a=100)
    for _ in range(2):  # the second time there is nothing left to do
        metrics.keep_counts_of_ended(tmp_path, living={13})
        files = {path.name for path in tmp_path.glob("*.db")}
        assert files == {"counter_13.db", "counter_ended.db"}
        ended = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_ended.db"))
        assert {key: number for key, number, *_ in ended} == {"a": 11, "b": 2}


@pytest.mark.parametrize(
    "torn", [b"", b"\0\0", b"\xff\0\0\0" + b"\0" * 20, b"\x40\0\0\0\0\0\0\0\x10\0\0\0" + b"\xff" * 60]
)
def test_a_file_that_a_kill_left_half_written_costs_its_own_counts_only(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "counter_11.db").write_bytes(torn)
    counted_file(tmp_path, "counter_12.db", a=10)
    metrics.keep_counts_of_ended(tmp_path, living=set())
    assert {path.name for path in tmp_path.glob("*.db")} == {"counter_ended.db"}
    ended = MmapedDict.read_all_values_from_file(str(tmp_path / "counter_ended.db"))
    assert ("a", 10) in {(key, number) for key, number, *_ in ended}


def test_no_count_changes_while_they_are_added_up(tmp_path: Path) -> None:
    counted_file(tmp_path, "counter_11.db", a=1)
    with metrics.counts_locked(str(tmp_path)):
        metrics.keep_counts_of_ended(tmp_path, living=set())
        assert (tmp_path / "counter_11.db").exists()
    metrics.keep_counts_of_ended(tmp_path, living=set())
    assert not (tmp_path / "counter_11.db").exists()


def metrics_folder_of(pid: int) -> Path | None:
    """The folder where a web process counts, for it has files of it in its memory."""
    found = re.search(r"(/\S*/kelpie-metrics-\w+)/", Path(f"/proc/{pid}/maps").read_text())
    return Path(found[1]) if found else None


def children_of(pid: int) -> set[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in text.split()}


def test_what_a_killed_server_left_behind_goes_at_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / "kelpie-metrics-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "counter_1.db").touch()
    other = tmp_path / "other"
    other.mkdir()
    (other / "lock").touch()
    first, second = gunicorn_worker.folder_for_counts(tmp_path), gunicorn_worker.folder_for_counts(tmp_path)
    assert not left.exists()
    assert first != second and first.is_dir() and second.is_dir() and other.is_dir()


def test_a_removed_folder_is_no_500(scrape: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(metrics.SHARED, "/nowhere/at/all")
    assert value(scraped(scrape), "database_up") == 1


def test_any_process_of_a_server_tells_what_all_of_them_did(server_url: str, empty_database: str) -> None:
    """Also what those did that ended; and nothing is left when the server stops."""
    with scratch_folder() as root, LocalStack(root, database_url=empty_database, web_processes=2) as stack:

        def jobs_listed() -> float:
            text = requests.get(f"{stack.api_url}/metrics", timeout=10).text
            labels = {"method": "GET", "route": "/users/me", "status": "200"}
            return value(parsed(text), "http_request_duration_seconds_count", **labels)

        for _ in range(20):  # each on a connection of its own, so both processes get some
            requests.get(f"{stack.api_url}/users/me", headers={"X-Kelpie-Key": stack.user_key}, timeout=10)
        assert {jobs_listed() for _ in range(10)} == {20}
        api = stack._api
        assert api is not None
        first = children_of(api.pid)
        for pid in first:
            os.kill(pid, 9)
        wait_for(lambda: len(children_of(api.pid) - first) == 2, "two new processes")
        wait_for(lambda: jobs_listed() == 20, "the counts of the ended processes")
        # One of the two may not have counted anything yet.
        folder = next(found for pid in children_of(api.pid) if (found := metrics_folder_of(pid)))
        assert folder.is_dir()
        wait_for(
            lambda: not [path for pid in first for path in folder.glob(f"*_{pid}.db")],
            "the ended processes' files to go",
        )
        api.stop()
    assert not folder.exists()


def test_every_metric_is_documented(app: Flask, api: Client, scrape: Client, db: Database, tenant: Tenant) -> None:
    api.claim()
    api.report({"id": make_job(db, tenant)}, "released", attempt=1)
    page = (CHECKOUT / "docs" / "operating.md").read_text()
    found = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in scraped(scrape)}
    assert {"kelpie_claims_total", "kelpie_refused_reports_total", "kelpie_lapsed_leases"} <= found
    assert {name for name in found if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "/metrics?a=b", "/metrics/?a=b", "/%6Detrics", "/metrics%2F", "/%2Fmetrics",
     "//metrics", "/metrics//", "/metrics/.", "/Metrics", "/metrics%00", "/metrics%0A", "/metrics;a",
     "/%256Detrics"],
)  # fmt: skip
def test_every_path_that_shows_them_is_one_that_the_proxy_knows_as_theirs(app: Flask, path: str) -> None:
    """deploy/proxy/metrics.conf names the addresses that may ask, so no spelling may lead around it."""
    conf = (CHECKOUT / "deploy" / "proxy" / "nginx.conf").read_text()
    [place] = re.findall(r"location ~ (\S+) \{\s+include metrics.conf;", conf)
    is_shown = app.test_client().get(path).status_code == 200
    as_nginx_reads_it = unquote(path.partition("?")[0])
    assert re.search(place, as_nginx_reads_it) or not is_shown
    assert is_shown or path not in {"/metrics", "/metrics/"}
