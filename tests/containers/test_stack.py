"""The stack as it is shipped: it comes up, it works, and its containers may do little."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from local_stack.demo.receiver import WebhookReceiver
from local_stack.processes import CHECKOUT, scratch_folder, wait_for
from local_stack.s3 import S3Server
from local_stack.stack import NO_METADATA_SERVICE, Worker, own_environment
from tests.containers.caller import Caller
from tests.containers.compose import Compose

OURS = ["api", "webhooks", "proxy"]


def test_nothing_starts_before_the_secrets_are_set(compose: Compose) -> None:
    for name in ("POSTGRES_PASSWORD", "KELPIE_SECRET_KEY", "KELPIE_ADMIN_KEY"):
        with pytest.raises(RuntimeError, match=f"{name} must hold"):
            compose.run("config --quiet", env={name: ""})


def test_a_job_is_driven_to_its_end_through_the_proxy(stack: Compose) -> None:
    with WebhookReceiver(stack.gateway) as receiver, Caller(stack, "by-hand") as caller:
        job = caller.answer("POST", "/jobs", {"command": "x", "container_group_id": "g", "webhook": receiver.url})
        [claimed] = caller.answer("GET", "/work?machine_id=m1&container_group_id=g")
        assert (claimed["id"], claimed["attempt"]) == (job["id"], 1)
        holder = {"machine_id": "m1", "container_group_id": "g", "attempt": 1}
        assert caller.answer("POST", f"/jobs/{job['id']}/heartbeat", holder) == {"status": "running"}
        caller.answer("POST", f"/jobs/{job['id']}/completed", holder)
        assert caller.answer("GET", f"/jobs/{job['id']}")["status"] == "completed"
        wait_for(lambda: receiver.total() == 2, "both webhooks")
        assert sorted(receiver.received[job["id"]].values()) == ["completed", "running"]


def test_a_worker_brings_its_outputs_home_through_the_proxy(stack: Compose) -> None:
    with scratch_folder() as root, Caller(stack, "by-worker") as caller:
        s3 = S3Server(root)
        s3.start()
        worker = Worker("machine-1", root, worker_environment(stack, caller, s3))
        try:
            s3.create_bucket("outputs")
            worker.start()
            upload = {"bucket": "outputs", "prefix": "out/", "local_path": "out", "direction": "upload"}
            job = caller.answer(
                "POST",
                "/jobs",
                {
                    "command": "sh",
                    "arguments": ["-c", "mkdir -p out && echo done > out/result"],
                    "container_group_id": "workers",
                    "sync": {"after": [upload]},
                },
            )
            wait_for(
                lambda: caller.answer("GET", f"/jobs/{job['id']}")["status"] == "completed",
                "the job to be completed",
                timeout=60,
            )
            assert s3.files("outputs", "out/") == {"result": b"done\n"}
        finally:
            worker.crash()
            s3.stop()


def worker_environment(stack: Compose, caller: Caller, s3: S3Server) -> dict[str, str]:
    return {
        **own_environment(),
        **s3.environment,
        "KELPIE_API_URL": stack.url,
        "KELPIE_API_KEY": caller.key,
        "SALAD_MACHINE_ID": "machine-1",
        "SALAD_CONTAINER_GROUP_ID": "workers",
        "SALAD_IMDS_URL": NO_METADATA_SERVICE,
        "HEARTBEAT_INTERVAL_S": "1",
    }


@pytest.mark.parametrize("service", OURS)
def test_a_container_is_not_root_and_may_write_nowhere(stack: Compose, service: str) -> None:
    assert stack.execute(service, "id", "-u")[1].strip() not in {"0", ""}
    for folder in ("/", "/etc", "/usr/local", "/var", "/home"):
        code, said = stack.execute(service, "touch", f"{folder}/mark")
        assert code != 0 and ("Read-only" in said or "denied" in said), said
    # Not even as root, without the rights that the kernel calls capabilities.
    settings = stack.containers()[service].attrs["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"] and not settings["CapAdd"]
    assert "no-new-privileges:true" in settings["SecurityOpt"]


@pytest.mark.parametrize("service", ["api", "webhooks"])
def test_a_program_connects_as_a_role_that_owns_nothing_and_knows_no_other_password(
    stack: Compose, service: str
) -> None:
    environment = "\n".join(stack.containers()[service].attrs["Config"]["Env"])
    assert stack.password not in environment and "POSTGRES_PASSWORD" not in environment
    assert (stack.admin_key in environment) is (service == "api")
    with stack.database() as db:
        rows = db.all("select distinct usename from pg_stat_activity where application_name = 'kelpie-2'")
        owned = db.all("select relname from pg_class where relowner = 'kelpie_app'::regrole")
    assert {row["usename"] for row in rows} == {"kelpie_app", "kelpie"} and owned == []  # `db` is the other one
    as_owner = "import psycopg; psycopg.connect('postgresql://kelpie@postgres/kelpie')"
    code, said = stack.execute(service, "python", "-c", as_owner)
    assert code != 0 and "password" in said


def test_only_the_proxy_has_a_port_on_this_machine(stack: Compose) -> None:
    published = {
        service: [place for places in (container.ports or {}).values() for place in places or []]
        for service, container in stack.containers().items()
    }
    assert {service for service, places in published.items() if places} == {"proxy"}
    assert [place["HostIp"] for place in published["proxy"]] == ["127.0.0.1"]


def test_the_image_holds_what_runs_and_nothing_secret(built: Compose) -> None:
    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "run", "--rm", "--network=none", built.image, *command], capture_output=True, text=True
        )

    assert set(inside("ls", "-A", "/app").stdout.split()) == {
        "kelpie_api",
        "kelpie_version.py",
        "sql",
        "scripts",
        "requirements",
        "wsgi.py",
        "gunicorn.conf.py",
    }
    assert (
        set(inside("ls", "-A", "/app/scripts", "/app/requirements").stdout.split()) & {"test", "api.in"} == set()
    )
    assert inside("grep", "-rl", "canary-", "/app", "/venv", "/tmp").returncode == 1
    told = "".join(
        subprocess.run(["docker", *command, built.image], capture_output=True, text=True, check=True).stdout
        for command in (["history", "--no-trunc"], ["image", "inspect"])
    )
    assert "canary" not in told and "INDEX_URL" not in told


def test_no_secret_gets_into_a_log(stack: Compose) -> None:
    with Caller(stack, "discreet") as caller:
        caller.answer(
            "POST", "/jobs", {"command": "x", "container_group_id": "g", "environment": {"A": "canary-job"}}
        )
        for service, container in stack.containers().items():
            logs = container.logs()
            assert logs, service
            assert b"canary" not in logs and caller.key.encode() not in logs, service


@pytest.mark.parametrize("service", ["api", "webhooks"])
def test_a_stopped_container_ends_in_order(stack: Compose, service: str) -> None:
    container = stack.containers()[service]
    container.stop(timeout=30)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    if service == "webhooks":
        assert b"sender_stopped" in container.logs(tail=5)
    container.start()


def test_an_api_that_ends_by_itself_is_started_again(stack: Compose) -> None:
    restarts = stack.containers()["api"].attrs["RestartCount"]
    stack.execute("api", "python", "-c", f"import os; os.kill(1, {int(signal.SIGTERM)})")
    wait_for(lambda: stack.containers()["api"].attrs["RestartCount"] > restarts, "a restart", timeout=60)
    stack.wait_until_ready()


def test_the_documented_commands_bring_back_what_was(stack: Compose) -> None:
    [back_up], [restore] = documented("Backups", "pg_dump"), documented("Backups", "pg_restore")
    with Caller(stack, "restored") as caller:
        job = caller.answer("POST", "/jobs", {"command": "x", "container_group_id": "g"})
        stack.shell(back_up)
        caller.answer("DELETE", f"/jobs/{job['id']}")
        stack.shell(restore)
        stack.wait_until_ready()
        assert caller.answer("GET", f"/jobs/{job['id']}")["status"] == "pending"


def documented(section: str, word: str) -> list[str]:
    """The commands of that section of docs/operating.md in which the word occurs."""
    text = (CHECKOUT / "docs" / "operating.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if word in block]


def test_an_update_keeps_the_jobs(stack: Compose) -> None:
    with Caller(stack, "updated") as caller:
        job = caller.answer("POST", "/jobs", {"command": "x", "container_group_id": "g"})
        stack.run("up -d --force-recreate")
        stack.wait_until_ready()
        assert caller.answer("GET", f"/jobs/{job['id']}")["status"] == "pending"
