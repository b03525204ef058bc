"""The command line as a script and as a person meet it: exit codes, what is on which stream, what is harmless."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

from kelpie.cli import run
from kelpie_api.db import Database
from kelpie_api.web.requests import EXTENSIONS
from local_stack.processes import CHECKOUT, free_port, wait_for
from tests.helpers import Client as Http
from tests.helpers import Tenant, make_tenant


@dataclass
class Said:
    code: int
    out: str
    err: str


Kelpie = Callable[..., Said]

# Names, ends of ids and changes of many jobs need them; so does each test of a command that takes a REF.
filters = pytest.mark.skipif("filters" not in EXTENSIONS.split(", "), reason="the API announces no filters")


@pytest.fixture
def asked() -> list[str]:
    """The paths that the API was asked for."""
    return []


@pytest.fixture
def address(app: Flask, asked: list[str]) -> Iterator[str]:
    """The API on a port of its own."""

    def noted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, noted, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environment(address: str, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user's: an empty home, and settings by variables."""
    for name in [name for name in os.environ if name.startswith(("KELPIE_", "SALAD_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    mine = {"HOME": str(tmp_path), "KELPIE_API_URL": address, "KELPIE_API_KEY": tenant.key}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def kelpie(
    environment: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Kelpie:
    """Run a command in this process, with this standard input."""

    def said(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(list(words))
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return said


def submit(kelpie: Kelpie, *words: str) -> str:
    said = kelpie("submit", "-g", "g1", *words)
    assert said.code == 0, said.err
    return said.out.strip()


def one_sentence(said: Said) -> str:
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return said.err


@filters
def test_the_exit_code_of_wait_says_how_the_job_ended(kelpie: Kelpie, client: Http) -> None:
    submit(kelpie, "-n", "t1", "--max-failures", "1", "--", "sh", "-c", "exit 3")
    client.report(client.claim() or {}, "failed", attempt=1, exit_code=3, reason="exit_code", output="no disk")
    failed = kelpie("wait", "t1")
    assert failed.code == 10
    assert "no disk" in failed.err
    assert failed.out == ""


@filters
def test_the_exit_code_of_wait_is_the_highest_of_all_jobs(kelpie: Kelpie, client: Http) -> None:
    submit(kelpie, "-n", "fine", "--", "true")
    client.report(client.claim() or {}, "completed", attempt=1)
    assert kelpie("wait", "fine").code == 0
    submit(kelpie, "-n", "unwanted", "--", "true")
    assert kelpie("cancel", "unwanted").code == 0
    assert kelpie("wait", "fine", "unwanted").code == 11


@filters
def test_a_wait_that_is_over_exits_with_12(kelpie: Kelpie) -> None:
    submit(kelpie, "-n", "slow", "--", "sleep", "9")
    said = kelpie("wait", "slow", "--timeout", "1s")
    assert said.code == 12
    assert "run on" in one_sentence(said)


def test_a_refusal_exits_with_1_and_the_servers_sentence(kelpie: Kelpie, client: Http) -> None:
    job = submit(kelpie, "--", "true")
    client.report(client.claim() or {}, "completed", attempt=1)
    said = kelpie("cancel", job)
    assert said.code == 1
    assert "completed" in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["submit"],
        ["ls", "--no-such"],
        ["lss"],
        ["cancel"],
        ["cancel", "x", "-l", "a=b"],
        ["wait"],
        ["wait", "x", "--sweep", "none"],
        ["edit", "x"],
        ["interrupt"],
        ["api", "GET", "jobs"],
    ],
)
def test_a_mistaken_call_exits_with_2(kelpie: Kelpie, words: list[str]) -> None:
    said = kelpie(*words)
    assert (said.code, said.out) == (2, "")
    assert " --help" in one_sentence(said)


def test_a_command_that_is_nearly_right_is_named(kelpie: Kelpie) -> None:
    assert "Did you mean cancel?" in kelpie("cancle").err


def test_without_an_address_the_sentence_says_how_to_log_in(
    kelpie: Kelpie, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_API_URL")
    said = kelpie("ls")
    assert said.code == 2
    assert "kelpie login" in one_sentence(said)


@filters
@pytest.mark.parametrize("verb", ["show", "why", "events", "attempts", "logs", "wait", "cancel", "hold", "rerun"])
def test_an_unknown_name_exits_with_3(kelpie: Kelpie, verb: str) -> None:
    said = kelpie(verb, "nothing-of-this-name")
    assert said.code == 3
    assert "nothing-of-this-name" in one_sentence(said)


def test_a_wrong_key_exits_with_4(kelpie: Kelpie, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELPIE_API_KEY", "wrong")
    said = kelpie("ls")
    assert said.code == 4
    one_sentence(said)


def test_an_absent_coordinator_exits_with_5(kelpie: Kelpie, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.commands.common.PATIENCE", 0.2)
    monkeypatch.setenv("KELPIE_API_URL", f"http://127.0.0.1:{free_port()}")
    said = kelpie("ls")
    assert said.code == 5
    assert "127.0.0.1" in one_sentence(said)


def test_ctrl_c_of_a_wait_ends_with_130_and_says_that_the_job_runs_on(
    kelpie: Kelpie, environment: dict[str, str], client: Http, asked: list[str]
) -> None:
    job = submit(kelpie, "--", "sleep", "9")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "kelpie", "wait", job],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    before = len(asked)
    wait_for(lambda: len(asked) > before + 1, "the command to wait")
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130, err
    assert "Jobs run on; look again with: kelpie ls" in err
    assert "Traceback" not in err
    assert out == ""
    assert (client.get(f"/jobs/{job}").json or {})["status"] == "pending"


@filters
def test_a_sweep_is_one_line_of_a_list_and_what_is_old_is_left_out(kelpie: Kelpie, db: Database) -> None:
    words = ("sweep", "-g", "g1", "-p", "n=1..3", "-q", "-n")
    sweep, old, rested = (
        kelpie(*words, name, "--", "run", "{n}").out.strip() for name in ("grid", "old", "rested")
    )
    submit(kelpie, "-n", "alone", "--", "true")
    for name in ("old", "rested"):
        assert kelpie("sweeps", "cancel", name, "-y").code == 0
    db.execute("update sweeps set created = created - interval '3 days' where name in ('old', 'rested')")
    with db.transaction() as tx:
        tx.execute("set local session_replication_role = replica")  # final jobs take no changes
        past = "created = created - interval '2 days', canceled = canceled - interval '2 days'"
        tx.execute(f"update jobs set {past} where sweep_id = %(id)s", id=old)
    rows = [line.split("\t") for line in kelpie("ls").out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["alone", rows[0][1], "pending"],
        ["grid", sweep[-8:], "sweep, 0 of 3 ended"],
        ["rested", rested[-8:], "sweep, 3 of 3 ended"],
    ]
    assert len(kelpie("ls", "-a").out.splitlines()) == 4
    assert len(kelpie("ls", "-q").out.split()) == 7, "the jobs themselves"
    assert len(kelpie("ls", "--sweep", "grid").out.splitlines()) == 3


@filters
def test_jobs_that_match_are_waited_for_changed_and_interrupted(kelpie: Kelpie, client: Http) -> None:
    ids = [submit(kelpie, "-l", "team=nlp", "-n", f"job{number}", "--", "true") for number in range(2)]
    mine = ("-l", "team=nlp")
    said = kelpie("edit", *mine, "-y", "--priority", "7", "--rename", "renamed", "--set-label", "team=new")
    assert (said.code, sorted(said.out.split())) == (0, sorted(ids))
    mine = ("-l", "team=new")
    rows = [json.loads(line) for line in kelpie("ls", "--json", *mine).out.splitlines()]
    assert {(row["name"], row["priority"]) for row in rows} == {("renamed", 7)}
    held = client.get("/work?machine_id=m1&container_group_id=g1&speaks=steer").json or []
    assert kelpie("interrupt", *mine).out.split() == [held[0]["id"]], "the one that a machine has"
    client.report(held[0], "completed", attempt=1)
    assert kelpie("interrupt", *mine).code == 3
    said = kelpie("wait", *mine, "--any")
    assert (said.code, said.err) == (0, "The job renamed completed.\n")
    assert kelpie("cancel", *mine, "-y").code == 0
    assert kelpie("wait", *mine, "-q").code == 11


@filters
def test_a_job_may_wait_for_a_sweep_by_its_name(kelpie: Kelpie) -> None:
    made = json.loads(kelpie("sweep", "-g", "g1", "-n", "grid", "-p", "n=1,2", "--json", "--", "run", "{n}").out)
    said = kelpie("submit", "-g", "g1", "--depends-on", "grid", "-q", "--", "gather")
    assert json.loads(kelpie("show", said.out.strip(), "--json").out)["parked"] == ["depends"]
    assert made["id"] in kelpie("why", said.out.strip()).out
    assert "kelpie sweeps edit --close grid" in said.err
    assert kelpie("submit", "-g", "g1", "--depends-on", "grit", "--", "gather").code == 3


def test_output_is_printed_over_all_attempts_or_its_last_lines(kelpie: Kelpie, client: Http) -> None:
    job = submit(kelpie, "--", "true")
    for attempt, output, end in ((1, b"a\nb\nc", "released"), (2, b"d\ne\n", "completed")):
        (held,) = client.get("/work?machine_id=m1&container_group_id=g1&speaks=output").json or []
        path = f"/jobs/{job}/output?machine_id=m1&container_group_id=g1&attempt={attempt}&from=0"
        assert client.call("PUT", path, output).status_code == 200
        client.report(held, end, attempt=attempt)
    said = kelpie("logs", job)
    assert (said.out, said.err) == ("a\nb\ncd\ne\n", "--- attempt 1 ---\n--- attempt 2 ---\n")
    assert kelpie("logs", job, "--attempt", "1", "-n", "2").out == "b\nc"
    for words in (["-n", "1"], ["-n", "1", "-f"]):
        assert kelpie("logs", job, *words).out == "e\n"
    assert kelpie("logs", job, "-n", "0", "-f").out == ""


def test_a_list_for_a_program_is_json_line_by_line(kelpie: Kelpie) -> None:
    ids = [submit(kelpie, "-n", f"job{number}", "-l", "team=nlp", "--", "true") for number in range(3)]
    rows = [json.loads(line) for line in kelpie("ls", "--json").out.splitlines()]
    assert [row["id"] for row in rows] == ids[::-1]
    assert {row["labels"]["team"] for row in rows} == {"nlp"}
    assert kelpie("ls", "-q").out.split() == ids[::-1]


@filters
def test_what_is_piped_has_no_escape_byte_and_no_head(kelpie: Kelpie) -> None:
    submit(kelpie, "-n", "plain", "--", "true")
    for words in (["ls"], ["show", "plain"], ["events", "plain"], ["attempts", "plain"], ["machines"], ["sweeps"]):
        said = kelpie(*words)
        assert said.code == 0, said.err
        assert "\x1b" not in said.out
    assert kelpie("ls").out.split("\t")[0] == "plain"


def test_talk_is_on_standard_error_and_data_on_standard_output(kelpie: Kelpie) -> None:
    said = kelpie("submit", "-g", "g1", "--", "true")
    assert len(said.out.split()) == 1
    assert said.out.strip() not in ("", said.err.strip())


@filters
def test_where_a_job_is_seen_is_told_and_opened(kelpie: Kelpie, address: str) -> None:
    said = kelpie("submit", "-g", "g1", "-n", "seen", "--", "true")
    page = f"{address}/ui/jobs/{said.out.strip()}"
    assert f"Its page: {page}\n" in said.err
    assert page in kelpie("show", "seen").out
    assert kelpie("open", "seen").out == f"{page}\n"  # here is no terminal
    assert kelpie("open").out == f"{address}/ui\n"


HOSTILE = "\x1b[2J\x1b]0;owned\x07 a\u202eb\r\n\x9b31m"


@pytest.mark.parametrize("words", [["ls"], ["show"], ["events"]])
def test_a_hostile_name_moves_no_cursor_and_begins_no_line(kelpie: Kelpie, client: Http, words: list[str]) -> None:
    job = client.submit(labels={"k": HOSTILE}, arguments=[HOSTILE], command="true")
    said = kelpie(*words, *([] if words == ["ls"] else [job["id"]]))
    assert said.code == 0, said.err
    for sign in "\x1b\x07\x9b\u202e\r":
        assert sign not in said.out


def test_a_hostile_command_takes_one_line_of_what_is_shown(kelpie: Kelpie, client: Http) -> None:
    job = client.submit(arguments=["one\nphase       completed"], command="true")
    assert kelpie("show", job["id"]).out.count("\nphase") == 1


@filters
@pytest.mark.parametrize("words", [["cancel", "-l", "team=nlp"], ["login", "--api-url", "http://127.0.0.1:1"]])
def test_without_a_terminal_nothing_is_asked(kelpie: Kelpie, words: list[str]) -> None:
    submit(kelpie, "-l", "team=nlp", "--", "true")
    said = kelpie(*words, stdin="y\n")
    assert said.code == 2
    assert "no terminal" in said.err


@filters
def test_many_jobs_are_changed_by_a_filter_and_a_yes(kelpie: Kelpie, client: Http) -> None:
    jobs = [submit(kelpie, "-l", "team=nlp", "--", "true") for _ in range(3)]
    other = submit(kelpie, "--", "true")
    assert kelpie("cancel", "-y", "-l", "team=nlp").code == 0
    assert {(client.get(f"/jobs/{job}").json or {})["status"] for job in jobs} == {"canceled"}
    assert (client.get(f"/jobs/{other}").json or {})["status"] == "pending"


@filters
def test_a_change_of_one_of_several_jobs_with_one_name_is_refused_and_lists_them(kelpie: Kelpie) -> None:
    ids = [submit(kelpie, "-n", "twice", "--", "true") for _ in range(2)]
    said = kelpie("cancel", "twice")
    assert said.code == 1
    assert all(job in one_sentence(said) for job in ids)
    shown = kelpie("show", "twice")
    assert ids[1] in shown.out
    assert "newest" in shown.err
    assert kelpie("cancel", ids[0][-8:]).code == 0


def test_a_token_from_standard_input_is_kept_for_its_owner_alone(
    kelpie: Kelpie, address: str, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_API_URL")
    monkeypatch.delenv("KELPIE_API_KEY")
    said = kelpie("login", "--api-url", address, "--with-token", stdin=f"{tenant.key}\n")
    assert said.code == 0, said.err
    assert tenant.key not in said.out + said.err
    kept = tmp_path / ".config" / "kelpie" / "config.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kelpie("whoami", "--json").out)["address"] == address
    assert kelpie("profiles").out == f"default\t{address}\n"
    kept.chmod(0o644)
    assert "chmod 600" in one_sentence(kelpie("ls"))


def test_two_projects_stand_side_by_side(
    kelpie: Kelpie, address: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "from the environment" in kelpie("whoami").out
    for name in ("KELPIE_API_URL", "KELPIE_API_KEY"):
        monkeypatch.delenv(name)
    for name in ("nlp", "vision"):
        key = make_tenant(db, "lab", name).key
        kelpie("login", "--profile", name, "--api-url", address, "--with-token", stdin=f"{key}\n")
        (tmp_path / name).mkdir()
        (tmp_path / name / ".kelpie.toml").write_text(f'profile = "{name}"\n[submit]\npriority = 5\n')
        monkeypatch.chdir(tmp_path / name)
        assert kelpie("submit", "-n", f"of-{name}", "--", "true").code == 0
    for name, other in (("nlp", "vision"), ("vision", "nlp")):
        monkeypatch.chdir(tmp_path / name)
        (job,) = [json.loads(line) for line in kelpie("ls", "--json").out.splitlines()]
        assert (job["name"], job["priority"]) == (f"of-{name}", 5)
        assert kelpie("--profile", other, "ls").out.split("\t")[0] == f"of-{other}"
        assert json.loads(kelpie("whoami", "--json").out)["profile"] == name


def test_a_wrong_token_is_not_kept(kelpie: Kelpie, address: str, tmp_path: Path) -> None:
    said = kelpie("login", "--api-url", address, "--with-token", stdin="wrong\n")
    assert said.code == 4
    assert not (tmp_path / ".config" / "kelpie" / "config.toml").exists()


def test_the_completion_for_bash_completes_in_a_real_bash(environment: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kelpie"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kelpie "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(kelpie completion bash)"
        COMP_WORDS=(kelpie rehe) COMP_CWORD=1
        _kelpie_completion kelpie
        echo "${COMPREPLY[@]}"
    """
    path = f"{program.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**environment, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["rehearse"], done.stderr


def test_a_reader_that_ends_early_sees_no_complaint(kelpie: Kelpie, environment: dict[str, str]) -> None:
    for number in range(3):
        submit(kelpie, "-n", f"job{number}", "--", "true")
    line = f'"{sys.executable}" -m kelpie ls --json | head -n 0'
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_any_route_can_be_asked(kelpie: Kelpie) -> None:
    submit(kelpie, "--", "true")
    assert len(json.loads(kelpie("api", "GET", "/jobs?page_size=1").out)["jobs"]) == 1
    assert kelpie("api", "GET", "/no-such-route").code == 3
    assert kelpie("api", "POST", "/jobs", "-d", "no json").code == 2


SWEEP = """
import kelpie
k = kelpie.Client()
sweep = k.sweep(["run", "{n}"], kelpie.grid(n=range(2500)), name="many", group="g1")
print(sweep.id, sweep.total)
"""


@filters
def test_a_script_that_is_killed_in_the_middle_of_2500_jobs_and_run_again_makes_2500(
    kelpie: Kelpie, environment: dict[str, str], asked: list[str]
) -> None:
    script = [sys.executable, "-c", SWEEP]
    killed = subprocess.Popen(script, env=environment)
    wait_for(lambda: asked.count("/jobs/batch") > 1, "the second of its three requests", timeout=60, pause=0.01)
    killed.kill()
    killed.wait()
    again = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert asked.count("/jobs/batch") > 3, "it was killed before the end"
    (sweep,) = kelpie("sweeps", "--json").out.splitlines()
    assert (json.loads(sweep)["id"], json.loads(sweep)["total"]) == (again.stdout.split()[0], 2500)
    assert len(set(kelpie("ls", "-q", "--limit", "9999").out.split())) == 2500


def test_a_script_that_uses_everything_runs(environment: dict[str, str]) -> None:
    script = Path(__file__).with_name("everything.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(
        "kelpie ls -a lists yours, a job has an id and perhaps a name. canceled"
    )


def test_all_that_follows_the_commands_first_word_belongs_to_it(kelpie: Kelpie) -> None:
    made = json.loads(kelpie("submit", "--dry-run", "-n", "mine", "train", "--lr", "3", "-n", "its").out)
    assert (made["name"], made["command"], made["arguments"]) == ("mine", "train", ["--lr", "3", "-n", "its"])


@filters
def test_a_rerun_prints_the_id_of_the_new_job(kelpie: Kelpie) -> None:
    old = submit(kelpie, "-n", "again", "--", "true")
    kelpie("cancel", "again")
    new = kelpie("rerun", old).out.strip()
    assert new not in ("", old)
    assert json.loads(kelpie("show", new, "--json").out)["status"] == "pending"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["cancel", ""], 2, "The name of a job is empty"),
        (["show", " "], 2, "The name of a job is empty"),
        (["ls", "--sweep", "nosuch"], 3, "There is no sweep nosuch"),
        (["submit", "-l", "team", "--", "true"], 2, "A label looks like name=value"),
        (["submit", "-F", "nosuch.json"], 2, "nosuch.json cannot be read: No such file or directory."),
        (["submit", "-F", "-"], 2, "Standard input cannot be read"),
    ],
)
def test_a_careless_call_is_answered_in_one_sentence(
    kelpie: Kelpie, words: list[str], code: int, sentence: str
) -> None:
    submit(kelpie, "--", "true")
    said = kelpie(*words, stdin="{no json")
    assert said.code == code
    assert one_sentence(said).startswith(sentence)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_cannot_be_one_is_told_so(kelpie: Kelpie, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("KELPIE_API_KEY", key)
    said = kelpie("ls")
    assert said.code == 2
    assert "copy it again" in one_sentence(said)


@filters
def test_a_narrow_terminal_shows_lines_that_fit_and_colours_that_are_no_text(
    kelpie: Kelpie, environment: dict[str, str]
) -> None:
    submit(kelpie, "-n", "日本語-und-ein-langer-name", "--", "true")
    outside, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 40))
    line = f'"{sys.executable}" -m kelpie ls && "{sys.executable}" -m kelpie show 日本語-und-ein-langer-name'
    terminal = {name: value for name, value in environment.items() if name not in ("COLUMNS", "NO_COLOR")}
    subprocess.run(["sh", "-c", line], env=terminal, stdout=inside, stderr=inside, check=True, timeout=60)
    os.close(inside)
    shown = os.read(outside, 65536).decode()
    os.close(outside)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "phase       pending" in plain
    assert "\x1b[33mpending\x1b[0m" in shown
    assert all(sum(2 if ord(sign) > 0x3000 else 1 for sign in row) <= 40 for row in plain.splitlines()[:2]), plain
