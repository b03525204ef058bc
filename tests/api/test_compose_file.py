"""compose.yaml passes on every setting that the coordinator reads."""

from __future__ import annotations

from typing import Any

import yaml

from kelpie_api.config import VARIABLES
from local_stack.processes import CHECKOUT


def test_every_setting_of_the_coordinator_can_be_given_in_the_env_file() -> None:
    read = {name for name in VARIABLES if name.startswith(("KELPIE_", "SALAD_"))}
    read.remove("KELPIE_BIND")  # the proxy expects the API where it is without this
    read.remove("KELPIE_ONE_TIME_SIGN_IN")  # for a stack on one machine
    services: dict[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    for name in ("migrate", "api", "webhooks", "autoscaler"):
        assert read - services[name]["environment"].keys() <= {"KELPIE_ADMIN_KEY"}


def test_the_api_alone_gets_the_administrators_key() -> None:
    services: dict[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    assert [
        name for name, service in services.items() if "KELPIE_ADMIN_KEY" in service.get("environment", {})
    ] == ["api"]


def test_the_owner_of_the_tables_is_the_role_of_migrations_alone() -> None:
    text = (CHECKOUT / "compose.yaml").read_text()
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    knows = [name for name, service in services.items() if "${POSTGRES_PASSWORD" in str(service)]
    assert knows == ["postgres", "migrate"]
    for name in ("api", "webhooks", "autoscaler"):
        assert services[name]["environment"]["DATABASE_URL"] == "postgresql://kelpie_app@postgres:5432/kelpie"
        assert services[name]["volumes"] == ["credentials:/run/kelpie:ro"]


def test_no_service_runs_a_script_that_does_not_exist() -> None:
    services = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    left_in = (CHECKOUT / ".dockerignore").read_text().splitlines()
    scripts = [service["command"][1] for service in services.values() if "command" in service]
    assert scripts and all((CHECKOUT / script).exists() and f"!{script}" in left_in for script in scripts)
