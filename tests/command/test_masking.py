"""Secrets in what a command prints."""

from __future__ import annotations

import pytest

from kelpie_worker.command.masking import mask, secrets_of


def test_secrets_that_overlap_are_masked_whole() -> None:
    assert mask(b"..abcabcd..", [b"abca", b"cabcd"]) == b"..*******.."


def test_what_counts_as_a_secret_of_the_environment() -> None:
    pem = "-----BEGIN KEY-----\n" + "A" * 64 + "\n-----END"
    environment = {
        "PATH": "/usr/local/bin:/usr/bin",
        "HF_TOKEN": "hf_123456",
        "db_password": "swordfish",
        "MONKEY": "true",
        "SSH_PRIVATE_KEY": pem,
        "DATABASE_URL": "postgres://kelpie:reeds@db/kelpie",
        "BROKEN": "http://[",
    }
    expected = {"known", "hf_123456", "swordfish", pem, "A" * 64, "-----BEGIN KEY-----", "reeds"}
    found = secrets_of(environment, ["known"])
    assert {secret.encode() for secret in expected} <= found
    assert not {b"true", b"/usr/local/bin:/usr/bin", b"kelpie", b"http://["} & found


def test_a_variable_that_the_job_names_as_a_secret_is_one_whatever_its_name_and_value() -> None:
    environment = {"LICENCE": "/not/a/path", "FLAG": "false", "N": "7", "PATH": "/usr/bin"}
    found = secrets_of(environment, [], ["LICENCE", "FLAG", "N", "GONE"])
    assert {b"/not/a/path", b"false"} <= found
    assert not {b"7", b"/usr/bin"} & found


@pytest.mark.parametrize(
    ("name", "value", "printed", "masked"),
    [
        ("API_KEY", "pike", "my pike", "my ****"),
        ("WANDB_LOGIN", "pike", "my pike", "my ****"),
        ("HF_ACCESS", "pike", "my pike", "my ****"),
        ("GITHUB_PAT", "pike", "my pike", "my ****"),
        ("PATH", "pike", "my pike", "my pike"),
        ("HF_HOME", "/data/hub", "in /data/hub", "in /data/hub"),
        ("USE_AUTH", "True", "True", "True"),
        ("API_KEY", "pi\nke", r"{'k': 'pi\nke'}", "{'k': '******'}"),
        ("API_KEY", 'pi"kë', r'{"k": "pi\"k\u00eb"}', '{"k": "***********"}'),
        ("API_KEY", "pi/ke", "?key=pi%2Fke", "?key=*******"),
        (
            "API_KEY",
            "pike-perch",
            "Basic cGlrZS1wZXJjaA== cGlrZS1wZXJjaA",
            "Basic **************== **************",
        ),
        ("DB", "pg://me:pi%40ke@db/x", "as me with pi@ke or pi%40ke", "as me with ***** or *******"),
    ],
)
def test_a_secret_is_masked_in_whichever_form_it_is_printed(
    name: str, value: str, printed: str, masked: str
) -> None:
    assert mask(printed.encode(), secrets_of({name: value}, [])).decode() == masked
