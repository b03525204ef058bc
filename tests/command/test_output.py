"""What a command prints on its way through Kelpie, and what is kept of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.real_worker import CHECKOUT

# Runs a command line with its output passed on by an OutputRelay, and prints what was kept to a file.
THROUGH_A_RELAY = """
import subprocess, sys, pathlib
from kelpie_worker.command.output import OutputRelay
from kelpie_worker.command.output_tail import OutputTail
kept, size, secrets, *command = sys.argv[1:]
relay = OutputRelay(OutputTail(int(size), {secret.encode() for secret in secrets.split(",") if secret}))
process = subprocess.Popen(command, stdout=relay.stdout, stderr=relay.stderr)
relay.begin()
process.wait()
relay.wait(None)
pathlib.Path(kept).write_text(relay.tail.text(int(size)))
"""
BOTH = "import os\nfor n in range(400): os.write(1, b'out %d|' % n); os.write(2, b'err %d|' % n)\n"


def through_a_relay(folder: Path, script: str, size: int, secrets: str = "") -> list[str]:
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{THROUGH_A_RELAY}"
    kept = str(folder / "kept")
    return [sys.executable, "-c", code, kept, str(size), secrets, sys.executable, "-c", script]


def test_both_streams_arrive_byte_for_byte_however_binary(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "content").write_bytes(content)
    script = f"import os, sys; data = open({str(tmp_path / 'content')!r}, 'rb').read(); sys.stdout.buffer.write(data); sys.stderr.buffer.write(data[::-1])"  # noqa: E501
    ran = subprocess.run(through_a_relay(tmp_path, script, 100), capture_output=True, check=True)
    assert ran.stdout == content and ran.stderr == content[::-1]
    assert 0 < len((tmp_path / "kept").read_text()) <= 100


def test_streams_that_are_one_keep_their_order(tmp_path: Path) -> None:
    run = subprocess.run(
        through_a_relay(tmp_path, BOTH, 60_000), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    expected = "".join(f"out {n}|err {n}|" for n in range(400))
    assert run.stdout.decode() == expected == (tmp_path / "kept").read_text()


def test_a_reader_that_takes_its_time_gets_everything_and_the_command_waits_for_it(tmp_path: Path) -> None:
    script = "import sys; sys.stdout.write('x' * 2_000_000); sys.stderr.write('written')"
    process = subprocess.Popen(
        through_a_relay(tmp_path, script, 10), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    told: list[bytes] = []
    listener = threading.Thread(target=lambda: told.append(process.stderr.read()))  # type: ignore[union-attr]
    listener.start()
    first = process.stdout.read(100_000)
    assert told == [] and process.poll() is None
    rest = process.stdout.read()
    listener.join()
    assert len(first) + len(rest) == 2_000_000 and told == [b"written"] and process.wait() == 0
    process.stdout.close()
    process.stderr.close()


def test_what_is_printed_is_passed_on_at_once(tmp_path: Path) -> None:
    script = "import sys; print('ready', flush=True); sys.stdin.readline()"
    process = subprocess.Popen(
        through_a_relay(tmp_path, script, 10), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdin
    assert process.stdout.readline() == b"ready\n" and process.poll() is None
    process.communicate(b"go\n")
    assert process.returncode == 0


def test_a_command_whose_reader_is_gone_gets_sigpipe(tmp_path: Path) -> None:
    script = (
        "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)\n"
        "try:\n    while True: os.write(1, b'x' * 1000)\n"
        f"except BrokenPipeError: open({str(tmp_path / 'heard')!r}, 'w')\n"
    )
    process = subprocess.Popen(through_a_relay(tmp_path, script, 10), stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait() == 0 and (tmp_path / "heard").exists()


def test_a_full_disk_under_the_output_stops_no_command(tmp_path: Path) -> None:
    script = f"print('x' * 1_000_000); open({str(tmp_path / 'done')!r}, 'w')"
    with Path("/dev/full").open("wb") as full:
        subprocess.run(through_a_relay(tmp_path, script, 10), stdout=full, stderr=subprocess.DEVNULL, check=True)
    assert (tmp_path / "done").exists() and (tmp_path / "kept").read_text() == "xxxxxxxxx\n"


@pytest.mark.parametrize(
    ("script", "size", "kept"),
    [
        ("import os; os.write(1, b'the password is swordfish')", 100, "the password is *********"),
        ("import os; os.write(1, b'sword'); os.write(2, b'|'); os.write(1, b'fish')", 100, None),
        ("import os; os.write(1, b'swordfish!')", 5, "****!"),
        ("import os; os.write(1, b'swordfish'); os.write(2, b'.' * 50)", 52, None),
        ("import os; os.write(1, b'sword'); os.write(2, b'.' * 90); os.write(1, b'fish')", 50, None),
        ("import os; os.write(1, 'ä€'.encode() * 50)", 9, "€ä€"),
        ("import os; os.write(1, b'a\\0b\\xff')", 9, "a\ufffdb\ufffd"),
        ("pass", 9, ""),
    ],
)
def test_the_last_bytes_are_kept_without_secrets(tmp_path: Path, script: str, size: int, kept: str | None) -> None:
    subprocess.run(through_a_relay(tmp_path, script, size, "swordfish"), capture_output=True, check=True)
    text = (tmp_path / "kept").read_text()
    assert text == kept if kept is not None else not {"sword", "fish"} & set(text.replace("|", ".").split("."))
