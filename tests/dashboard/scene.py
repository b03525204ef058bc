"""A project as it looks after some weeks: the rows that the pages are driven, measured and pictured with.

Its centre is a training job with six attempts in fourteen hours: three machines that vanished, a command that ran
out of memory, a machine that gave the job back in time, and one that works on it now.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from uuid import UUID

from kelpie_api.auth import users
from kelpie_api.auth.caller import Role
from kelpie_api.db import Database
from kelpie_api.queue import groups, sweeps
from tests.helpers import Tenant, ban, make_job, make_tenant

GROUP, OTHER_GROUP, PAUSED_GROUP = "a100-spot", "rtx4090", "cpu-batch"
MACHINES = ("7f3ac2", "c21e08", "90bd51", "1d4477", "e8f01b")
STEADY = 86_400  # seconds between two heartbeats, so that no lease ends while the pages are looked at


@dataclass(frozen=True)
class Try:
    """An attempt in minutes after the submission."""

    machine: str
    begin: float
    end: float
    lost: float
    outcome: str | None
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None


TRIES = (
    Try(MACHINES[0], 2, 148, 21, "interrupted", "lease_expired"),
    Try(MACHINES[1], 163, 305, 4, "interrupted", "lease_expired"),
    Try(MACHINES[2], 309, 352, 13, "failed", "exit_code", "The command exited with 137.", 137),
    Try(MACHINES[1], 360, 602, 17, "interrupted", "lease_expired"),
    Try(MACHINES[3], 640, 704, 0, "released", "shutdown"),
    Try(MACHINES[4], 712, 842, 0, None),
)
NOW = 842  # minutes after the submission
BETWEEN_CHECKPOINTS = 23  # minutes
ALL_OF_IT = 980  # minutes of work


@dataclass(frozen=True)
class Scene:
    """What the pages of it are reached by. `training` runs, `finished` has ended, `waiting` waits for `training`;
    `pending` are three jobs with the label team:walk, and `in_hand` is one that a machine holds."""

    operator: Tenant
    viewer_key: str
    training: UUID
    finished: UUID
    waiting: UUID
    in_hand: UUID
    pending: list[UUID]
    sweep: UUID


def make(db: Database) -> Scene:
    """Fill an empty database."""
    tenant = make_tenant(db, "acme", "vision")
    viewer_key = users.create_token(db, tenant.caller.user_id, "acme", "vision", Role.VIEWER)
    training = make_training(db, tenant)
    finished = make_finished(db, tenant)
    sweep = make_sweep(db, tenant)
    waiting = make_job(
        db, tenant, name="evaluate", group=GROUP, labels={"team": "nlp"}, depends_on=[str(training)], priority=5
    )
    in_hand = make_job(
        db, tenant, "held", name="detector", group=OTHER_GROUP, machine="41aa90", heartbeat_interval=STEADY
    )
    db.execute("update queue set phase = 'running', speaks = '{steer}' where job_id = %(id)s", id=in_hand)
    pending = [
        make_job(db, tenant, name=f"embed-{number}", group=OTHER_GROUP, labels={"team": "walk"})
        for number in range(1, 4)
    ]
    failed = make_job(db, tenant, "failed", name="tokenizer", group=PAUSED_GROUP, labels={"team": "nlp"})
    db.execute(
        "update attempts set exit_code = 1, reason = 'exit_code', detail = 'The command exited with 1.',"
        " output = 'Traceback (most recent call last):' where job_id = %(id)s",
        id=failed,
    )
    make_job(db, tenant, "canceled", name="lora-7b-old", group=GROUP, labels={"team": "nlp"})
    ban(db, training, MACHINES[2])
    groups.change(db, tenant.caller, GROUP, {"price_per_hour": 1.1})
    groups.change(db, tenant.caller, OTHER_GROUP, {"price_per_hour": 0.32})
    make_job(db, tenant, name="thumbnails", group=PAUSED_GROUP, labels={"team": "web"})
    groups.change(db, tenant.caller, PAUSED_GROUP, {"paused": True})
    make_machines(db, tenant)
    make_usage(db, tenant, sweep)
    return Scene(tenant, viewer_key, training, finished, waiting, in_hand, pending, sweep)


def make_training(db: Database, tenant: Tenant) -> UUID:
    job_id = make_job(
        db,
        tenant,
        "held",
        name="lora-7b",
        group=GROUP,
        machine=MACHINES[4],
        attempt=len(TRIES),
        heartbeat_interval=STEADY,
        labels={"team": "nlp", "model": "7b"},
        command="python",
        arguments=["train.py", "--steps", "39200", "--rank", "16"],
        environment={"HF_HOME": "/scratch/hf", "WANDB_MODE": "offline"},
        keep_output=2**20,
        sync={
            "before": [block("lora-7b/ckpt/", "ckpt", "download")],
            "during": [block("lora-7b/ckpt/", "ckpt", "upload")],
            "after": [block("lora-7b/out/", "out", "upload")],
        },
    )
    minute = "* interval '1 minute'"
    values = {"id": job_id, "now": NOW}
    db.execute(
        f"update jobs set created = now() - %(now)s {minute}, started = now() - %(start)s {minute},"
        " num_failures = 1 where id = %(id)s",
        **values,
        start=NOW - TRIES[0].begin,
    )
    db.execute("update queue set phase = 'running', speaks = '{steer}' where job_id = %(id)s", **values)
    db.execute("delete from attempts where job_id = %(id)s", **values)
    db.execute(f"update events set at = now() - %(now)s {minute} where job_id = %(id)s", **values)
    for number, each in enumerate(TRIES, 1):
        held = None if each.outcome is None else (each.end - each.begin) * 60
        db.execute(
            "insert into attempts (job_id, number, machine_id, container_group, claimed, ended, outcome,"
            "                      exit_code, reason, detail, tenant_id, held, useful, lost, price_per_hour)"
            f" values (%(id)s, %(number)s, %(machine)s, %(group)s, now() - (%(now)s - %(begin)s) {minute},"
            f"         case when %(held)s::float8 is not null then now() - (%(now)s - %(end)s) {minute} end,"
            "         %(outcome)s::attempt_outcome, %(exit_code)s, %(reason)s, %(detail)s, %(tenant)s, %(held)s,"
            "         %(useful)s, %(lost)s, 1.1)",
            **values,
            **{name: getattr(each, name) for name in ("machine", "begin", "end", "outcome", "reason", "detail")},
            exit_code=each.exit_code,
            number=number,
            group=GROUP,
            tenant=tenant.caller.tenant_id,
            held=held,
            useful=None if held is None else held - each.lost * 60,
            lost=None if held is None else each.lost * 60,
        )
        tell_of_attempt(db, job_id, number, each)
    make_progress(db, job_id)
    print_output(db, job_id)
    return job_id


def block(prefix: str, path: str, direction: str) -> dict[str, str]:
    return {"bucket": "acme-runs", "prefix": prefix, "local_path": path, "direction": direction}


def tell_of_attempt(db: Database, job_id: UUID, number: int, each: Try) -> None:
    """Its checkpoints, of which the newest ones are kept, and its events."""
    last = each.end - each.lost - (6 if each.outcome is None else 0)
    marks = [at for at in (last - BETWEEN_CHECKPOINTS * back for back in range(20)) if at > each.begin]
    values = {"id": job_id, "number": number, "now": NOW}
    db.execute(
        "insert into checkpoint_marks (job_id, attempt, at)"
        " select %(id)s, %(number)s, now() - (%(now)s - at) * interval '1 minute'"
        "   from unnest(%(marks)s::float8[]) as at",
        **values,
        marks=marks,
    )
    for generation, at in enumerate(marks[:1][::-1], len(marks)):
        db.execute(
            "insert into checkpoints (job_id, attempt, generation, reported, files, bytes)"
            " values (%(id)s, %(number)s, %(generation)s, now() - (%(now)s - %(at)s) * interval '1 minute',"
            "         %(files)s::jsonb, %(bytes)s)",
            **values,
            generation=generation,
            at=at,
            files=json.dumps([{"bucket": "acme-runs", "key": "lora-7b/ckpt/adapter.pt", "size": 167_772_160}]),
            bytes=167_772_160,
        )
    kinds = {"failed": "attempt_failed", None: None}
    ended = kinds.get(each.outcome, each.outcome)
    for kind, at in (("claimed", each.begin), (ended, each.end)):
        if kind:
            db.execute(
                "insert into events (job_id, at, kind, actor, attempt)"
                " values (%(id)s, now() - (%(now)s - %(at)s) * interval '1 minute', %(kind)s, %(actor)s,"
                "         %(number)s)",
                **values,
                at=at,
                kind=kind,
                actor="coordinator" if kind == "interrupted" else f"machine:{each.machine}",
            )


def make_progress(db: Database, job_id: UUID) -> None:
    """What the command told: its loss, which a new attempt takes up where its checkpoint was."""
    noise = random.Random(7)
    kept, points = 0.0, []
    for number, each in enumerate(TRIES, 1):
        for minute in range(0, int(each.end - each.begin), 6):
            fraction = (kept + minute) / ALL_OF_IT
            metrics = {
                "loss": round(1.05 + 2.1 * math.exp(-4.2 * fraction) + noise.gauss(0, 0.03), 4),
                "tokens_per_s": round(noise.gauss(8400 if number % 2 else 7900, 90)),
            }
            points.append((number, each.begin + minute, fraction, round(fraction * 39_200), metrics))
        kept += each.end - each.begin - each.lost
    for place, (number, at, fraction, step, metrics) in enumerate(points, 1):
        db.execute(
            "insert into progress_points (job_id, number, attempt, at, fraction, step, metrics)"
            " values (%(id)s, %(place)s, %(number)s, now() - %(ago)s * interval '1 minute', %(fraction)s,"
            "         %(step)s, %(metrics)s::json)",
            id=job_id,
            place=place,
            number=number,
            ago=NOW - at,
            fraction=fraction,
            step=step,
            metrics=json.dumps(metrics),
        )
    fraction = kept / ALL_OF_IT
    said = {"fraction": fraction, "step": round(39_200 * fraction), "total": 39_200, "message": "epoch 3 of 4"}
    db.execute(
        "insert into progress (job_id, attempt, said, said_at, said_fraction, changed_at, first_fraction,"
        "                      first_at, went_from, went_to, went_in, points, point_number, last_point)"
        " values (%(id)s, %(attempt)s, %(said)s::json, now(), %(fraction)s, now(), %(first)s,"
        "         now() - interval '130 minutes', %(first)s, %(fraction)s, 7800, %(points)s, %(points)s, now())",
        id=job_id,
        attempt=len(TRIES),
        said=json.dumps(said),
        fraction=fraction,
        first=fraction - 130 / ALL_OF_IT,
        points=len(points),
    )


def print_output(db: Database, job_id: UUID) -> None:
    step = 30_080
    lines = ["resumed from ckpt/adapter.pt at step 25024"]
    lines += [
        f"step {step + 40 * n:6d}  loss {1.131 - n * 0.0009:.4f}  lr 1.9e-05  8,4{n % 10}2 tokens/s"
        for n in range(30)
    ]
    content = ("\n".join(lines) + "\n").encode()
    values = {"id": job_id, "attempt": len(TRIES), "content": content, "size": len(content)}
    db.execute(
        "insert into outputs (job_id, attempt, tenant_id, next, kept, last_at)"
        " select id, %(attempt)s, tenant_id, %(size)s, %(size)s, now() from jobs where id = %(id)s",
        **values,
    )
    db.execute(
        "insert into output_pieces (job_id, attempt, start, content) values (%(id)s, %(attempt)s, 0, %(content)s)",
        **values,
    )


def make_finished(db: Database, tenant: Tenant) -> UUID:
    job_id = make_job(db, tenant, "held", name="pretrain-check", group=GROUP, machine=MACHINES[0])
    for statement in (
        "update jobs set created = now() - interval '9 hours' where id = %(id)s",
        "update attempts set claimed = now() - interval '8 hours', ended = now(), outcome = 'completed',"
        " held = 28800, useful = 28800, lost = 0, price_per_hour = 1.1, exit_code = 0 where job_id = %(id)s",
        "delete from queue where job_id = %(id)s",
        "update jobs set status = 'completed', completed = now() where id = %(id)s",
    ):
        db.execute(statement, id=job_id)
    return job_id


def make_sweep(db: Database, tenant: Tenant) -> UUID:
    made, _ = sweeps.create(db, tenant.caller, {"name": "learning-rates", "max_parallel": 8}, None)
    states = ["completed"] * 19 + ["failed", "completed", "canceled"]
    states += ["held"] * 6 + ["waiting"] + ["pending"] * 13
    for number, state in enumerate(states):
        make_job(
            db,
            tenant,
            state,
            name=f"lr-{number:02}",
            group=OTHER_GROUP,
            machine=f"b{number % 6:02}e71",
            heartbeat_interval=STEADY,
            sweep=str(made["id"]),
        )
    return UUID(str(made["id"]))


def make_machines(db: Database, tenant: Tenant) -> None:
    for number, (group, machine) in enumerate(
        [(GROUP, name) for name in MACHINES] + [(OTHER_GROUP, f"b{number:02}e71") for number in range(6)]
    ):
        db.execute(
            "insert into machines (tenant_id, container_group, machine_id, bans, last_seen)"
            " values (%(tenant)s, %(group)s, %(machine)s, %(bans)s, now() - %(ago)s * interval '1 second')",
            tenant=tenant.caller.tenant_id,
            group=group,
            machine=machine,
            bans=int(machine == MACHINES[2]),
            ago=7 if number >= 3 else 14_400 * (number + 1),
        )


def make_usage(db: Database, tenant: Tenant, sweep: UUID) -> None:
    """A month of attempts, the same in each run."""
    db.execute(
        "insert into usage_of_days (tenant_id, day, container_group, machine_id, sweep_id, outcome, attempts,"
        "                           held, useful, lost, money)"
        " select %(tenant)s, (now() at time zone 'UTC')::date - day, g, machine, of, outcome::attempt_outcome, n,"
        "        held, held * (1 - share), held * share, held / 3600 * price"
        "   from generate_series(0, 29) day,"
        "        (values (%(group)s, %(first)s, %(none)s::uuid, 1.1), (%(group)s, %(second)s, %(none)s, 1.1),"
        "                (%(other)s, 'b01e71', %(sweep)s, 0.32), (%(other)s, 'b02e71', %(none)s, 0.32))"
        "          as machines (g, machine, of, price),"
        "        (values ('completed', 3, 0.0), ('interrupted', 2, 0.08)) as ends (outcome, n, share),"
        "        lateral (select n * 9000 * (2 + sin(day + price)) as held) h",
        tenant=tenant.caller.tenant_id,
        group=GROUP,
        other=OTHER_GROUP,
        first=MACHINES[0],
        second=MACHINES[4],
        sweep=sweep,
        none=UUID(int=0),
    )
