"""The coordinator's settings: what is wrong with one is said at the start, in a sentence that names it."""

from __future__ import annotations

import pytest

from kelpie_api.config import Config
from kelpie_api.errors import ConfigError

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
