"""Output on the page of a job while it is printed: pieces that the page asks for (docs/pages.md, What is live)."""

from __future__ import annotations

import html
import re
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from kelpie_api.dashboard import output
from kelpie_api.dashboard.job import REFRESHED
from local_stack.processes import wait_for
from tests.dashboard.browser import Browser
from tests.dashboard.conftest import Passes
from tests.helpers import Client, Job

LIVE = {"HX-Request": "true"}
HOSTILE = "<script>alert(1)</script>\u202e\x1b]0;title\x07\x1b[31m"


@dataclass
class Shown:
    """What a page or an answer has of the output: lines that have ended, the one that has not, what is next."""

    whole: str
    open: str
    place: str | None
    pause: int | None


def shown(text: str) -> Shown:
    pieces = re.findall(r'<span class="piece[^"]*">([^<]*)</span>', text)
    more = re.search(r'id="more" data-hx-get="([^"]*)" data-hx-trigger="every (\d)s"[^>]*>([^<]*)</span>', text)
    whole = html.unescape("".join(pieces))
    if more is None:
        return Shown(whole, "", None, None)
    return Shown(whole, html.unescape(more[3]), html.unescape(more[1]), int(more[2]))


@pytest.fixture
def job(api: Client) -> Job:
    api.submit(keep_output=2**20)
    answer = api.get("/work?machine_id=m1&container_group_id=g1&speaks=output")
    return dict(answer.get_json()[0])


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is held back for longer than a moment."""
    monkeypatch.setattr(output, "WAIT", 0.05)


def send(api: Client, job: Job, start: int, content: bytes, attempt: int = 1) -> dict[str, Any]:
    named = f"machine_id=m1&container_group_id=g1&attempt={attempt}&from={start}"
    answer = api.call("PUT", f"/jobs/{job['id']}/output?{named}", content)
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def follow(browser: Browser, one: Shown, **headers: str) -> Shown:
    assert one.place
    return shown(browser.get(one.place, **LIVE, **headers).text)


def test_a_page_gets_what_follows_and_a_line_that_is_written_over_in_its_place(
    api: Client, operator: Browser, job: Job
) -> None:
    send(api, job, 0, b"first\n 10 %\r")
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    assert (page.whole, page.open, page.pause) == ("first\n", " 10 %", 1)
    send(api, job, 12, " 20 %\r 3é".encode()[:-1])
    piece = follow(operator, page)
    assert (piece.whole, piece.open) == ("", " 3\ufffd")
    assert send(api, job, 21, "é".encode()[1:] + b" %\ndone\n")["watched"]
    piece = follow(operator, piece)
    assert (piece.whole, piece.open) == (" 3é %\ndone\n", "")


def test_an_answer_is_held_back_until_there_is_more(app: Flask, api: Client, operator: Browser, job: Job) -> None:
    send(api, job, 0, b"one\n")
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    found: list[Shown] = []
    reading = threading.Thread(target=lambda: found.append(follow(operator, page)))
    reading.start()
    readers = app.extensions["kelpie"].readers
    wait_for(lambda: len(readers) == 1, "the page does not wait", 10)
    send(api, job, 4, b"two\n")
    reading.join(10)
    assert [one.whole for one in found] == ["two\n"]


def test_without_a_place_to_wait_a_page_is_answered_at_once_and_asks_later(
    app: Flask, api: Client, operator: Browser, job: Job
) -> None:
    parts = app.extensions["kelpie"]
    most = parts.config.max_readers
    for _ in range(most // 2):
        assert parts.room_for_pages.acquire(blocking=False)
    assert not parts.room_for_pages.acquire(blocking=False) and parts.readers.most == most
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    piece = follow(operator, page)
    assert (piece.whole, piece.pause) == ("", 5)
    send(api, job, 0, b"one\n")
    assert follow(operator, piece) == Shown("one\n", "", f"/ui/jobs/{job['id']}/output?attempt=1&from=4&seen=4", 1)


@pytest.mark.usefixtures("at_once")
def test_a_place_is_given_back(app: Flask, operator: Browser, job: Job) -> None:
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    for _ in range(2):
        assert follow(operator, page).pause == 1
    assert len(app.extensions["kelpie"].readers) == 0
    assert app.extensions["kelpie"].room_for_pages._value == app.extensions["kelpie"].config.max_readers // 2


@pytest.mark.usefixtures("at_once")
def test_the_next_attempt_follows_and_after_the_last_one_nothing(api: Client, operator: Browser, job: Job) -> None:
    send(api, job, 0, b"one\nopen")
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    assert api.report(job, "released", attempt=1).status_code == 200
    piece = follow(operator, page)
    assert (piece.whole, piece.open, piece.pause) == ("open\n", "", 5)
    assert api.claim()
    piece = follow(operator, piece)
    assert (piece.whole, piece.pause) == ("── attempt 2 ──\n", 1)
    send(api, job, 0, b"two\n", attempt=2)
    piece = follow(operator, piece)
    assert piece.whole == "two\n"
    assert api.report(job, "completed", attempt=2).status_code == 200
    assert follow(operator, piece) == Shown("", "", None, None)
    assert shown(operator.get(f"/ui/jobs/{job['id']}").text).place is None


def test_of_much_output_the_newest_comes_and_what_is_left_out_is_said(
    api: Client, operator: Browser, job: Job
) -> None:
    line, size = b"%06d hello\n", 13
    for start in range(0, 15_000, 5_000):
        send(api, job, start * size, b"".join(line % number for number in range(start, start + 5_000)))
    page = shown(operator.get(f"/ui/jobs/{job['id']}").text)
    assert page.whole.startswith("… 174.4 KiB left out\n0137") and page.whole.endswith("014999 hello\n")
    piece = shown(operator.get(f"/ui/jobs/{job['id']}/output?attempt=1&from=13&seen=13", **LIVE).text)
    assert re.match(r"… 126\.\d KiB left out\n\d{6} hello\n", piece.whole) and len(piece.whole) < 66_000


def test_what_is_hostile_in_it_is_text(api: Client, operator: Browser, job: Job) -> None:
    place = f"/ui/jobs/{job['id']}/output?attempt=1&from=0&seen=0"
    send(api, job, 0, f"{HOSTILE}\n".encode() * 1000 + HOSTILE.encode() * 400)
    text = operator.get(place, **LIVE).text
    assert "<script>" not in text and "\u202e" not in text and "\x1b" not in text and "title" not in text
    assert "&lt;script&gt;" in text and len(text) < 200_000


def test_the_live_part_of_the_page_repeats_no_output(
    api: Client, operator: Browser, job: Job, passes: Passes
) -> None:
    place = f"/ui/jobs/{job['id']}"
    known = operator.get(place, **LIVE)
    assert shown(known.text) == Shown("", "", f"{place}/output?attempt=1&from=0&seen=0", 1)
    send(api, job, 0, b"one\n")
    passes(REFRESHED)
    assert 'id="output" data-keep' in known.text and ">one" not in operator.get(place, **LIVE).text


@pytest.mark.parametrize(
    "query",
    ["", "attempt=1&from=0", "attempt=2&from=0&seen=0", "attempt=0&from=0&seen=0", "attempt=1&from=-1&seen=0"]
    + [f"attempt=1&from={odd}&seen=0" for odd in ("x", "1.5", "٣", "9" * 30)],
)
def test_a_place_that_no_page_asks_for_is_refused(operator: Browser, job: Job, query: str) -> None:
    operator.get(f"/ui/jobs/{job['id']}/output?{query}", 400, **LIVE)


@pytest.mark.usefixtures("at_once")
def test_a_viewer_reads_it_and_no_other_tenant(
    api: Client, viewer: Browser, rival: Browser, browser: Browser, job: Job
) -> None:
    send(api, job, 0, b"one\n")
    place = f"/ui/jobs/{job['id']}/output?attempt=1&from=0&seen=0"
    assert shown(viewer.get(place, **LIVE).text).whole == "one\n"
    rival.get(place, 404, **LIVE)
    browser.get(place, 401, **LIVE)


def test_output_that_is_not_kept_is_asked_for_by_no_page(api: Client, operator: Browser) -> None:
    job = api.submit()
    assert api.claim()
    assert shown(operator.get(f"/ui/jobs/{job['id']}").text).place is None
