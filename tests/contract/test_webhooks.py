"""Section 4: webhooks, received by a real receiver and verified with the reference implementation."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from local_stack.processes import free_port, wait_for
from tests.contract.client import Api, Json, expect, expect_error
from tests.contract.doubles import Delivery, Mailbox, Receiver, Salad
from tests.contract.stack import Stack, User


def secret(api: Api) -> str:
    return str(expect(200, api.get("/users/me/signing-secret")).json["secret"])


def log(api: Api, job: Json) -> list[Json]:
    answer = expect(200, api.get(f"/jobs/{job['id']}/webhooks")).json
    return answer["webhooks"] if isinstance(answer, dict) else answer


def redeliver(api: Api, job: Json, webhook_id: str) -> Any:
    return api.post(f"/jobs/{job['id']}/webhooks/{webhook_id}/redeliver")


def statuses(deliveries: list[Delivery]) -> list[str]:
    return [delivery.status for delivery in deliveries]


def is_signed(delivery: Delivery, with_secret: str) -> bool:
    try:
        Webhook(with_secret).verify(delivery.body, delivery.headers)
    except WebhookVerificationError:
        return False
    return True


# --- when, and what


def test_handout_and_completion_are_told_in_order(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    job = api.claimed("m", webhook=mailbox.url)
    expect(200, api.report("completed", job, "m"))
    assert [delivery.json for delivery in mailbox.receives(2)] == [
        {"status": status, "job_id": job["id"], "machine_id": "m", "container_group_id": api.group}
        for status in ("running", "completed")
    ]


def test_every_handout_is_told_and_a_failure_only_when_it_is_final(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    job = api.claimed("m1", webhook=mailbox.url, max_failures=2)
    expect(202, api.report("failed", job, "m1"))
    api.claim("m2")
    expect(200, api.report("released", job, "m2"))
    api.claim("m3")
    expect(202, api.report("failed", job, "m3"))
    told = [(delivery.status, delivery.json["machine_id"]) for delivery in mailbox.receives(4)]
    assert told == [("running", "m1"), ("running", "m2"), ("running", "m3"), ("failed", "m3")]


def test_nothing_is_told_of_a_cancel_or_of_a_refused_report(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    canceled = api.claimed("m", webhook=mailbox.url)
    expect(202, api.delete(f"/jobs/{canceled['id']}"))
    api.report("completed", canceled, "m")
    job = api.claimed("m", webhook=mailbox.url)
    api.report("completed", job, "another")
    for _ in range(2):
        expect(200, api.report("completed", job, "m"))
    wait_for(lambda: "completed" in statuses(mailbox.deliveries), "the last webhook")
    assert sorted(statuses(mailbox.deliveries)) == ["completed", "running", "running"]
    assert len(log(api, canceled)) == 1
    assert len(log(api, job)) == 2


def test_the_group_shown_is_the_one_that_the_worker_named(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    api.submit(webhook=mailbox.url, container_group_id=None)
    [job] = api.claim("m", "the claimant's group")
    expect(200, api.report("completed", job, "m", container_group_id="the reporter's group"))
    groups = [delivery.json["container_group_id"] for delivery in mailbox.receives(2)]
    assert groups == ["the claimant's group", "the reporter's group"]


def test_a_pending_job_reported_completed_is_told(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    job = api.submit(webhook=mailbox.url)
    expect(200, api.report("completed", job, "m"))
    assert statuses(mailbox.receives(1)) == ["completed"]


def test_a_webhook_is_a_post_of_json(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    api.claimed("m", webhook=mailbox.url)
    [delivery] = mailbox.receives(1)
    assert delivery.headers["content-type"].split(";")[0] == "application/json"
    assert set(delivery.json) == {"status", "job_id", "machine_id", "container_group_id"}


# --- the key it carries


def test_the_key_of_the_report_that_caused_it_is_sent(user: User, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    submitting, claiming, reporting = user.api(), user.api(), user.api()
    job = submitting.submit(webhook=mailbox.url)
    claiming.claim("m", submitting.group)
    expect(200, reporting.report("completed", job, "m"))
    keys = [delivery.headers["x-kelpie-key"] for delivery in mailbox.receives(2)]
    assert keys == [claiming.headers["X-Kelpie-Key"], reporting.headers["X-Kelpie-Key"]]


def test_no_key_is_sent_where_a_salad_key_or_a_token_was_used(
    stack: Stack, salad: Salad, receiver: Receiver
) -> None:
    organization, group = f"org-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    salad.keys["a-salad-key"].add((organization, "a-project"))
    project = {"Salad-Project": "a-project"}
    by_key = stack.caller({"Salad-Api-Key": "a-salad-key", "Salad-Organization": organization, **project})
    by_token = stack.caller({"Authorization": f"Bearer {salad.token(organization, group, 'm')}", **project})
    mailbox = receiver.mailbox()
    job = by_key.submit(webhook=mailbox.url, container_group_id=group)
    by_key.claim("m", group)
    expect(200, by_token.report("completed", job, "m", container_group_id=group, attempt=1))
    assert [delivery.headers["x-kelpie-key"] for delivery in mailbox.receives(2)] == ["", ""]


# --- the signature


def test_a_webhook_is_signed_with_the_user_s_secret(api: Api, stranger: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    api.claimed("m", webhook=mailbox.url)
    [delivery] = mailbox.receives(1)
    assert is_signed(delivery, secret(api))
    assert not is_signed(delivery, secret(stranger))
    altered = Delivery(delivery.headers, delivery.body.replace(b"running", b"ruining"))
    assert not is_signed(altered, secret(api))


def test_the_secret_is_the_same_until_it_is_rotated(api: Api) -> None:
    first = secret(api)
    assert secret(api) == first
    rotated = expect(200, api.post("/users/me/signing-secret")).json["secret"]
    assert rotated != first
    assert secret(api) == rotated


def test_two_secrets_are_valid_after_a_rotation(api: Api, receiver: Receiver) -> None:
    secrets = [secret(api)]
    for _ in range(2):
        expect(200, api.post("/users/me/signing-secret"))
        secrets.append(secret(api))
        mailbox = receiver.mailbox()
        api.claimed("m", webhook=mailbox.url)
        [delivery] = mailbox.receives(1)
        assert [is_signed(delivery, one) for one in secrets[-2:]] == [True, True]
    assert not is_signed(delivery, secrets[0])


def test_the_secret_is_of_the_user_and_kept_out_of_caches(user: User, stranger: Api) -> None:
    one, two = user.api("one"), user.api("two")
    assert secret(one) == secret(two)
    assert secret(stranger) != secret(one)
    assert "no-store" in one.get("/users/me/signing-secret").headers["Cache-Control"]


# --- delivery


def test_what_is_not_accepted_is_sent_again_with_the_same_id(api: Api, receiver: Receiver) -> None:
    mailboxes = [receiver.mailbox((refusal,)) for refusal in (500, 503, 404, 400, 429, 302)]
    for mailbox in mailboxes:
        api.claimed("m", webhook=mailbox.url)
    for mailbox in mailboxes:
        first, second = mailbox.receives(2)
        assert first.id == second.id
        assert first.body == second.body
        assert second.at - first.at <= 10
        assert is_signed(first, secret(api))
        assert is_signed(second, secret(api))
    assert receiver.deliveries("/elsewhere") == []  # no redirect is followed


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_delivery(api: Api, receiver: Receiver, status: int) -> None:
    mailbox = receiver.mailbox(always=status)
    job = api.claimed("m", webhook=mailbox.url)
    wait_for(lambda: log(api, job)[0]["delivered"], "the delivery to be noted")
    assert len(mailbox.deliveries) == 1


def test_410_is_given_up(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox(always=410)
    job = api.claimed("m", webhook=mailbox.url)
    wait_for(lambda: log(api, job)[0]["given_up"], "the webhook to be given up")
    assert log(api, job)[0]["delivered"] is None
    assert len(mailbox.deliveries) == 1


def test_a_job_s_webhooks_come_in_order_though_the_first_is_refused_at_first(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox((500,))
    job = api.claimed("m", webhook=mailbox.url)
    expect(200, api.report("completed", job, "m"))
    assert statuses(mailbox.receives(3)) == ["running", "running", "completed"]


def test_each_webhook_has_an_id_of_its_own(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    jobs = [api.claimed("m", webhook=mailbox.url) for _ in range(3)]
    expect(200, api.report("completed", jobs[0], "m"))
    assert len({delivery.id for delivery in mailbox.receives(4)}) == 4


def test_a_silent_or_dead_receiver_delays_nobody_else_and_no_request(
    api: Api, stranger: Api, receiver: Receiver
) -> None:
    silent = receiver.mailbox(hold=True)
    dead = f"http://127.0.0.1:{free_port()}/"
    for url in (silent.url, dead):
        api.submit_many(40, webhook=url)
    for _ in range(80):
        assert api.claim("m")
    silent.receives(1)
    quick = receiver.mailbox()
    job = stranger.claimed("m", webhook=quick.url)
    expect(200, stranger.report("completed", job, "m"))
    assert statuses(quick.receives(2, timeout=10)) == ["running", "completed"]
    silent.let_go()


# --- log and redelivery


def delivered(api: Api, mailbox: Mailbox) -> tuple[Json, Delivery]:
    job = api.claimed("m", webhook=mailbox.url)
    [delivery] = mailbox.receives(1)
    wait_for(lambda: log(api, job)[0]["delivered"], "the delivery to be noted")
    return job, delivery


def test_the_log_shows_each_webhook_of_the_job(api: Api, receiver: Receiver) -> None:
    job, delivery = delivered(api, receiver.mailbox())
    [entry] = log(api, job)
    assert entry["id"] == delivery.id
    assert entry["status"] == "running"
    assert entry["machine_id"] == "m"
    assert log(api, api.submit()) == []


def test_no_key_and_no_secret_is_in_the_log(api: Api, receiver: Receiver) -> None:
    job, delivery = delivered(api, receiver.mailbox())
    shown = api.get(f"/jobs/{job['id']}/webhooks").body.decode()
    assert delivery.headers["x-kelpie-key"] not in shown
    assert secret(api) not in shown
    assert delivery.headers["webhook-signature"] not in shown


def test_a_delivered_webhook_is_sent_again_on_demand(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox()
    job, first = delivered(api, mailbox)
    assert redeliver(api, job, first.id).status in (200, 202)
    again = mailbox.receives(2)[1]
    assert (again.id, again.body) == (first.id, first.body)
    assert is_signed(again, secret(api))
    assert again.headers["x-kelpie-key"] == api.headers["X-Kelpie-Key"]


def test_a_webhook_that_was_given_up_is_sent_again_on_demand(api: Api, receiver: Receiver) -> None:
    mailbox = receiver.mailbox((410,))
    job = api.claimed("m", webhook=mailbox.url)
    [first] = mailbox.receives(1)
    wait_for(lambda: log(api, job)[0]["given_up"], "the webhook to be given up")
    assert redeliver(api, job, first.id).status in (200, 202)
    wait_for(lambda: log(api, job)[0]["delivered"], "the delivery to be noted")
    assert [delivery.id for delivery in mailbox.deliveries] == [first.id] * 2


@pytest.mark.parametrize("webhook_id", ["nonsense", "9d3b1f0e-4c52-4b7e-9a51-6c1f4b1f2a77", "%00"])
def test_redelivery_of_an_unknown_webhook_is_404(api: Api, webhook_id: str) -> None:
    expect_error(404, redeliver(api, api.submit(), webhook_id))


def test_a_webhook_is_redelivered_only_by_way_of_its_own_job_and_user(
    api: Api, stranger: Api, receiver: Receiver
) -> None:
    mailbox = receiver.mailbox()
    job, first = delivered(api, mailbox)
    other_job = api.submit()
    for refused in (
        redeliver(api, other_job, first.id),
        redeliver(stranger, job, first.id),
        stranger.get(f"/jobs/{job['id']}/webhooks"),
        api.get(f"/jobs/{uuid.uuid4()}/webhooks"),
    ):
        expect_error(404, refused)
    assert len(mailbox.deliveries) == 1


# --- where it may go

PRIVATE = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"]


def test_private_addresses_are_refused_unless_the_operator_allows_them(
    other_stack: Stack, receiver: Receiver
) -> None:
    api = other_stack.new_api()
    port = receiver.url.rsplit(":", 1)[1]
    mailbox = receiver.mailbox()
    urls = [f"http://{host}:{port}{mailbox.path}" for host in PRIVATE]
    jobs = [api.claimed("m", webhook=url) for url in urls]
    for job in jobs:
        wait_for(partial(was_tried, api, job), f"{job['webhook']} to be tried")
        assert log(api, job)[0]["delivered"] is None
    assert mailbox.deliveries == []


def was_tried(api: Api, job: Json) -> bool:
    return bool(log(api, job)[0]["tries"])
