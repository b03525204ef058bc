"""Section 8: settings, migrations, and what an operator looks at."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from local_stack.processes import CHECKOUT
from tests.contract.client import Api, expect, expect_error
from tests.contract.stack import ADMIN_KEY, Stack, environment, run_script

GOOD = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nowhere",
    "KELPIE_SECRET_KEY": "a secret of more than thirty-two characters",
    "KELPIE_ADMIN_KEY": "key",
}

# A setting, and a value (None: absent) that the coordinator must not start with.
BAD_SETTINGS: list[tuple[str, str | None]] = [
    ("DATABASE_URL", None),
    ("KELPIE_SECRET_KEY", None),
    ("KELPIE_SECRET_KEY", "x" * 31),
    ("KELPIE_WEBHOOK_ALLOW_PRIVATE", "perhaps"),
    ("KELPIE_JWT_STRICT", "perhaps"),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_a_bad_setting_is_refused_at_start_by_its_name(name: str, value: str | None) -> None:
    settings = {**GOOD, name: value}
    refused = run_script("webhooks", {key: one for key, one in settings.items() if one is not None})
    assert refused.returncode != 0
    assert name in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", ["DATABASE_URL", "KELPIE_SECRET_KEY"])
def test_the_api_does_not_start_without_what_it_needs(name: str) -> None:
    settings = {key: value for key, value in GOOD.items() if key != name}
    program = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "wsgi:app"]
    started = subprocess.run(
        program, cwd=CHECKOUT, env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert started.returncode != 0
    assert name in started.stderr


def test_migrations_need_a_database() -> None:
    refused = run_script("migrate", {})
    assert refused.returncode != 0
    assert "DATABASE_URL" in refused.stderr


def test_migrations_are_safe_to_run_from_several_hosts_at_once(empty_database: str) -> None:
    settings = {**GOOD, "DATABASE_URL": empty_database}
    with ThreadPoolExecutor(3) as pool:
        runs = [future.result() for future in [pool.submit(run_script, "migrate", settings) for _ in range(3)]]
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    assert run_script("migrate", settings).returncode == 0


def test_the_api_does_not_serve_a_schema_that_is_not_current(empty_database: str) -> None:
    settings = {**GOOD, "DATABASE_URL": empty_database}
    program = [sys.executable, "-m", "gunicorn", "--bind=127.0.0.1:0", "wsgi:app"]
    started = subprocess.run(
        program, cwd=CHECKOUT, env=environment(settings), capture_output=True, text=True, timeout=60
    )
    assert started.returncode != 0
    assert "migrate" in started.stderr


def test_every_role_is_in_the_procfile() -> None:
    roles = {line.split(":")[0] for line in (CHECKOUT / "Procfile").read_text().splitlines() if line.strip()}
    assert roles >= {"release", "web", "webhooks"}


def test_the_key_of_the_admin_is_a_setting(stack: Stack) -> None:
    expect(200, stack.caller({"X-Kelpie-Key": ADMIN_KEY}).get("/users/me"))
    expect_error(403, stack.caller({"X-Kelpie-Key": ADMIN_KEY + "x"}).get("/users/me"))


def test_the_process_says_that_it_lives_and_that_it_is_ready(nobody: Api) -> None:
    for path in ("/healthz", "/readyz"):
        expect(200, nobody.get(path))
        assert nobody.call("HEAD", path).status == 200


def test_metrics_are_in_the_text_format_of_prometheus(nobody: Api, api: Api) -> None:
    api.submit()
    answer = expect(200, nobody.get("/metrics"))
    assert answer.headers["Content-Type"].startswith(("text/plain", "application/openmetrics-text"))
    lines = answer.body.decode().splitlines()
    assert any(line.startswith("# TYPE ") for line in lines)
    assert any("pending" in line for line in lines)


def test_metrics_name_no_tenant_and_no_job(nobody: Api, api: Api) -> None:
    job = api.claimed("a-machine-of-a-tenant")
    shown = expect(200, nobody.get("/metrics")).body.decode()
    for secret in (job["id"], job["user_id"], api.group, "a-machine-of-a-tenant", api.headers["X-Kelpie-Key"]):
        assert secret not in shown


def test_no_key_is_in_a_log(stack: Stack, api: Api) -> None:
    api.claimed("m")
    expect_error(403, stack.caller({"X-Kelpie-Key": "a-wrong-key-that-was-tried"}).get("/jobs"))
    log = stack.log()
    for secret in (api.headers["X-Kelpie-Key"], ADMIN_KEY, "a-wrong-key-that-was-tried", stack.database_url):
        assert secret not in log
