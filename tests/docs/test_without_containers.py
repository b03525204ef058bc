"""The page on a coordinator without containers names only what there is."""

from __future__ import annotations

import configparser
import re
import shlex

import pytest

from kelpie_api.config import VARIABLES
from kelpie_api.web.body import LARGEST_BODY
from local_stack.processes import CHECKOUT

PAGE = (CHECKOUT / "docs" / "without-containers.md").read_text()
INSTALLED = "/opt/kelpie/"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def unit(text: str) -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)
    return parsed


SERVICES = [parsed for parsed in map(unit, blocks("ini")) if parsed.has_section("Service")]


def script_of(words: list[str]) -> str | None:
    return next((word for word in words if word.startswith("scripts/")), None)


def test_each_role_of_the_procfile_has_a_unit_with_its_command() -> None:
    started = [service["Service"]["ExecStart"].removeprefix(f"{INSTALLED}.venv/bin/") for service in SERVICES]
    for line in (CHECKOUT / "Procfile").read_text().splitlines():
        command = line.partition(": ")[2]
        assert any(begun.startswith(command) for begun in started), command


@pytest.mark.parametrize("service", SERVICES, ids=[service["Unit"]["Description"] for service in SERVICES])
def test_a_unit_runs_as_its_user_in_its_folder_with_files_that_the_page_writes(
    service: configparser.RawConfigParser,
) -> None:
    run = service["Service"]
    assert run["User"] == "kelpie" and f"{run['WorkingDirectory']}/" == INSTALLED
    assert f">{run['EnvironmentFile']}" in PAGE
    script = script_of(shlex.split(run["ExecStart"]))
    assert script is None or (CHECKOUT / script).exists()


def test_units_wait_for_and_commands_start_units_that_the_page_has() -> None:
    written = set(re.findall(r"^`(?:/etc/systemd/system/)?(kelpie-[a-z]+\.service)`", PAGE, re.MULTILINE))
    assert len(written) == len(SERVICES)
    written.add("kelpie-prune.timer")
    assert set(re.findall(r"kelpie-[a-z]+\.(?:service|timer)", PAGE)) == written
    started = re.findall(r"^systemctl (?:enable --now|restart) ([^#\n]+)", PAGE, re.MULTILINE)
    for name in " ".join(started).split():
        assert (name if "." in name else f"{name}.service") in written


def test_settings_are_those_of_the_table() -> None:
    [settings] = re.findall(r"cat >/etc/kelpie/kelpie.env <<ENV\n(.*?)^ENV", PAGE, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^([A-Z_]+)=", settings, re.MULTILINE)) | set(
        re.findall(r"\b((?:KELPIE|SALAD)_[A-Z_]+)\b", PAGE)
    )
    assert {"DATABASE_URL", "KELPIE_SECRET_KEY"} <= named <= VARIABLES.keys()
    assert "proxy_pass http://127.0.0.1:8000;" in PAGE and "KELPIE_BIND=127.0.0.1:8000" in PAGE


def test_every_script_that_a_command_starts_is_there() -> None:
    scripts = set(re.findall(r"\bscripts/[a-z]+", "\n".join(blocks("sh"))))
    assert {"scripts/bootstrap", "scripts/admin"} <= scripts
    assert all((CHECKOUT / script).exists() for script in scripts)


def test_nginx_takes_bodies_as_large_as_the_api_does_and_repeats_nothing() -> None:
    [conf] = blocks("nginx")
    assert conf.count("{") == conf.count("}")
    assert f"client_max_body_size {LARGEST_BODY // 2**20}m;" in conf
    assert "proxy_next_upstream off;" in conf
    shipped = (CHECKOUT / "deploy" / "proxy" / "nginx.conf").read_text()
    for same in ("client_max_body_size", "keepalive_timeout", "large_client_header_buffers", "location ~"):
        [wanted] = re.findall(rf"{same} [^;{{]+", conf)
        assert wanted in shipped
