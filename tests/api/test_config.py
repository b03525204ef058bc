"""The coordinator's settings: what is wrong with one is said at the start, in a sentence that names it."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from kelpie_api.commands import settings
from kelpie_api.config import VARIABLES, Config
from kelpie_api.errors import ConfigError
from local_stack.processes import CHECKOUT

USUAL = {"DATABASE_URL": "postgresql://kelpie@localhost/kelpie", "KELPIE_SECRET_KEY": "x" * 32}


@pytest.mark.parametrize("written", ["key", "key\n", " key\r\n"])
def test_the_line_break_after_salads_key_is_no_part_of_it(written: str) -> None:
    assert Config.from_env(USUAL | {"SALAD_API_KEY": written}).salad_api_key == "key"


@pytest.mark.parametrize("written", ["", "\n"])
def test_no_key_of_salads_is_none(written: str) -> None:
    assert Config.from_env(USUAL | {"SALAD_API_KEY": written}).salad_api_key is None


@pytest.mark.parametrize("written", ["canary\nkey", "canary\x00", "canary\u00fc"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(written: str) -> None:
    with pytest.raises(ConfigError, match="SALAD_API_KEY") as refusal:
        Config.from_env(USUAL | {"SALAD_API_KEY": written})
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    "written", ["api.salad.com", "ftp://api.salad.com", "https://", "http://[", "http://a:b", "http://a b"]
)
@pytest.mark.parametrize("name", ["SALAD_API_URL", "SALAD_JWKS_URL"])
def test_an_address_of_salads_that_is_none_is_refused(name: str, written: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_env(USUAL | {name: written})


def test_an_address_of_salads_needs_no_slash_at_its_end() -> None:
    assert (
        Config.from_env(USUAL | {"SALAD_API_URL": "http://localhost:1/x/"}).salad_api_url == "http://localhost:1/x"
    )


@pytest.mark.parametrize("name", [name for name, variable in VARIABLES.items() if not variable.is_required])
@pytest.mark.parametrize("written", ["", " ", "\n"])
def test_a_variable_that_is_empty_or_blank_counts_as_absent(name: str, written: str) -> None:
    assert Config.from_env(USUAL | {name: written}) == Config.from_env(USUAL)


def test_what_is_read_from_an_empty_environment_is_what_the_table_says() -> None:
    assert Config.from_env(USUAL) == Config(USUAL["DATABASE_URL"], USUAL["KELPIE_SECRET_KEY"])


def test_the_document_has_the_table_of_the_settings() -> None:
    """`kelpie-server settings --markdown` prints it."""
    assert "\n".join(settings.table()) in (CHECKOUT / "docs" / "operating.md").read_text()


def test_the_list_of_the_settings_says_of_each_what_it_means_what_it_must_be_and_its_default() -> None:
    listed = CliRunner().invoke(settings.main)
    shown = re.sub(r"\s+", " ", listed.output).lower()
    assert listed.exit_code == 0
    for name, variable in VARIABLES.items():
        words = f"{name} {variable.meaning}. {variable.kind.words}. "
        words += (
            "required." if variable.is_required else f"default: {variable.default or variable.shown or 'none'}."
        )
        assert words.replace("`", "").lower() in shown


def test_every_variable_that_a_program_of_the_coordinator_reads_is_in_the_table() -> None:
    sources = [path.read_text() for path in (CHECKOUT / "kelpie_api").rglob("*.py")]
    read = {name for source in sources for name in re.findall(r'"((?:KELPIE|SALAD)_[A-Z_]+|[A-Z_]+_URL)"', source)}
    read |= {name for source in sources for name in re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', source)}
    assert {"DATABASE_URL", "PROMETHEUS_MULTIPROC_DIR"} <= read
    assert read <= VARIABLES.keys()


def test_an_administrators_key_that_can_be_guessed_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="KELPIE_ADMIN_KEY is too short: it needs 20 characters") as refusal:
        Config.from_env(USUAL | {"KELPIE_ADMIN_KEY": "nineteen-characters"})
    assert "nineteen" not in str(refusal.value)
    assert Config.from_env(USUAL | {"KELPIE_ADMIN_KEY": "twenty-characters-it"}).admin_key
    assert Config.from_env(USUAL | {"KELPIE_ADMIN_KEY": ""}).admin_key is None
