"""A job that is seen and steered: the real worker, at a coordinator that announces what it takes for that."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for
from local_stack.s3 import S3Server
from tests.doubles.coordinator import STEERING, FakeCoordinator
from tests.real_worker import UNTIL_TOLD, Worker, block, finished, is_alive, python, shell

FOR_EVER = "while :; do sleep 0.05; done"
pytestmark = pytest.mark.parametrize("coordinator", [STEERING], indirect=True)


def told(coordinator: FakeCoordinator, job: str, name: str) -> list[Any]:
    """What heartbeats told under that name, each change once."""
    values = [beat[name] for beat in coordinator.beats(job) if name in beat]
    return [value for at, value in enumerate(values) if not at or value != values[at - 1]]


def is_told_last(coordinator: FakeCoordinator, job: str, name: str, value: Any) -> bool:
    return told(coordinator, job, name)[-1:] == [value]


def has_beaten(coordinator: FakeCoordinator, job: str, times: int) -> bool:
    return coordinator.heartbeats(job) >= times


def test_phases_and_progress_are_seen_while_the_command_runs(coordinator: FakeCoordinator, worker: Worker) -> None:
    script = f"""
        printf '{{"step": 1, "total": 4, "loss": NaN}}' > $KELPIE_PROGRESS.draft
        mv $KELPIE_PROGRESS.draft $KELPIE_PROGRESS
        {UNTIL_TOLD}; rm go; echo 0.5 > $KELPIE_PROGRESS; {UNTIL_TOLD}; rm go
        echo "openjd_progress: 75"; echo "openjd_status: nearly"; {UNTIL_TOLD}; echo "attempt $KELPIE_ATTEMPT"
    """
    job = coordinator.submit(**shell(script), sync={})
    worker.start()
    for expected in (
        {"fraction": 0.25, "step": 1, "total": 4, "loss": None},
        {"fraction": 0.5},
        {"fraction": 0.75, "message": "nearly"},
    ):
        wait_for(partial(is_told_last, coordinator, job, "progress", expected), f"progress {expected}")
        (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.speaks(job) == "output,phase,progress,steer"
    assert told(coordinator, job, "phase")[0] in ("downloading", "running")
    assert "running" in told(coordinator, job, "phase")
    progress = [beat["progress"] for beat in coordinator.beats(job) if "progress" in beat]
    assert progress == told(coordinator, job, "progress"), "each only once"
    worker.wait_for("wiped")
    assert not list(worker.folder.glob(".kelpie-*~progress"))


def test_whatever_is_in_the_place_of_the_progress_file_the_job_goes_on_and_the_next_good_file_counts(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    script = f"""
        put() {{ "$@"; {UNTIL_TOLD}; rm -r go $KELPIE_PROGRESS; }}
        put mkfifo $KELPIE_PROGRESS
        put mkdir $KELPIE_PROGRESS
        put ln -s /dev/zero $KELPIE_PROGRESS
        put truncate -s 1G $KELPIE_PROGRESS
        echo 0.5 > $KELPIE_PROGRESS; {UNTIL_TOLD}
    """
    job = coordinator.submit(**shell(script), sync={})
    worker.start()
    worker.wait_for("command_started")
    for _ in range(4):
        beats = coordinator.heartbeats(job) + 2
        wait_for(partial(has_beaten, coordinator, job, beats), "heartbeats meanwhile")
        (worker.folder / "go").touch()
        wait_for(lambda: not (worker.folder / "go").exists(), "the next one")
    wait_for(partial(is_told_last, coordinator, job, "progress", {"fraction": 0.5}), "the good file")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert told(coordinator, job, "progress") == [{"fraction": 0.5}]
    assert len(worker.seen("progress_not_read")) == 1


@pytest.mark.parametrize("put", ["mkfifo", "ln -s $PWD/precious", "touch"])
def test_what_is_in_the_place_of_the_progress_folder_goes_with_the_job_and_nothing_else(
    coordinator: FakeCoordinator, worker: Worker, put: str
) -> None:
    (worker.folder / "precious").mkdir()
    (worker.folder / "precious" / "file").touch()
    script = f"folder=$(dirname $KELPIE_PROGRESS); rm -r $folder; {put} $folder"
    job = coordinator.submit(**shell(script), sync={})
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    worker.wait_for("wiped")
    assert not list(worker.folder.glob(".kelpie-*~progress"))
    assert (worker.folder / "precious" / "file").exists()


def test_what_a_command_told_last_goes_with_the_report(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell("echo 0.25 > $KELPIE_PROGRESS; echo nine byt; exit 3"), sync={})
    worker.start()
    report = finished(coordinator, job)[1]
    assert (report["progress"], report["output_bytes"]) == ({"fraction": 0.25}, 9)


def test_a_change_of_phase_is_told_at_once(coordinator: FakeCoordinator, worker: Worker) -> None:
    job = coordinator.submit(**shell(UNTIL_TOLD), sync={}, heartbeat_interval=300)
    worker.start()
    wait_for(lambda: told(coordinator, job, "phase")[-1:] == ["running"], "the phase", timeout=20)
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"


@pytest.mark.parametrize("why", ["interrupt", "hold", "cancel"])
def test_a_wish_stops_the_command_and_ships_its_last_checkpoint(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str, why: str
) -> None:
    save = "trap 'echo last > ck/last; exit 0' TERM"
    job = coordinator.submit(
        **shell(f"{save}; touch ready; while :; do sleep 0.05; done"), sync={"during": [block(bucket, "ck")]}
    )
    worker.start()
    wait_for((worker.folder / "ready").exists, "the command to listen")
    coordinator.wishes = {"stop": {"why": why}}
    kind, report = finished(coordinator, job)
    assert (kind, report["reason"], report["stop"]) == ("released", why, {"why": why})
    assert s3.files(bucket, "ck/") == {"last": b"last\n"} and coordinator.manifests(job)


def test_an_asked_command_is_terminated_once_what_it_saved_is_in_the_bucket(
    coordinator: FakeCoordinator, worker: Worker, s3: S3Server, bucket: str
) -> None:
    """Long before half of its share of the grace; and the signal reaches its first process alone."""
    script = """
        sh -c 'trap "echo child >> asked" USR1; while :; do sleep 0.05; done' &
        trap 'echo leader >> asked; echo saved > ck/.saved; mv ck/.saved ck/saved' USR1
        trap 'echo TERM >> asked; exit 0' TERM
        touch ready; while :; do sleep 0.05; done
    """
    job = coordinator.submit(**shell(script), sync={"during": [block(bucket, "ck")]}, checkpoint_signal="USR1")
    worker.start(KELPIE_SHUTDOWN_GRACE_S="2400")
    wait_for((worker.folder / "ready").exists, "the command to listen")
    coordinator.wishes = {"stop": {"why": "interrupt"}}
    assert finished(coordinator, job)[0] == "released"
    assert (worker.folder / "asked").read_text().split() == ["leader", "TERM"]
    assert s3.files(bucket, "ck/") == {"saved": b"saved\n"}


def test_a_command_that_saves_nothing_when_asked_is_terminated_after_half_of_its_share(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    script = f"trap 'echo USR2 >> asked' USR2; trap 'echo TERM >> asked; exit' TERM; touch ready; {FOR_EVER}"
    job = coordinator.submit(**shell(script), sync={}, checkpoint_signal="USR2")
    worker.start(KELPIE_SHUTDOWN_GRACE_S="4")
    wait_for((worker.folder / "ready").exists, "the command to listen")
    worker.signal(signal.SIGTERM)
    assert finished(coordinator, job)[1]["reason"] == "shutdown"
    assert (worker.folder / "asked").read_text().split() == ["USR2", "TERM"]


def test_at_its_deadline_a_job_is_stopped_though_the_coordinator_is_away(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell("exec sleep 1000"), sync={}, heartbeat_interval=100)
    coordinator.wishes = {"deadline": 2}
    worker.start()
    pid = worker.wait_for("command_started")["pid"]
    wait_for(lambda: coordinator.beats(job), "a heartbeat")
    coordinator.down = True
    wait_for(lambda: not is_alive(pid), "the command to be stopped")
    coordinator.down = False
    kind, report = finished(coordinator, job)
    assert (kind, report["reason"], report["stop"]) == ("released", "time_limit", {"why": "time_limit"})


def test_a_stall_is_told_and_taken_back_when_the_command_goes_on(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    script = f"echo 0.1 > $KELPIE_PROGRESS; {UNTIL_TOLD}; echo 0.2 > $KELPIE_PROGRESS; exec sleep 1000"
    job = coordinator.submit(**shell(script), sync={}, stall_after=2, heartbeat_interval=100)
    worker.start()
    wait_for(lambda: told(coordinator, job, "stalled") == [True], "the stall")
    (worker.folder / "go").touch()
    wait_for(lambda: told(coordinator, job, "stalled")[:2] == [True, False], "its end")


@pytest.mark.parametrize(("on_stall", "kind"), [("restart", "released"), ("fail", "failed")])
def test_a_job_that_stalls_is_stopped_where_it_says_so(
    coordinator: FakeCoordinator, worker: Worker, on_stall: str, kind: str
) -> None:
    job = coordinator.submit(**shell("exec sleep 1000"), sync={}, stall_after=1, on_stall=on_stall)
    worker.start()
    assert finished(coordinator, job)[0] == kind
    report = finished(coordinator, job)[1]
    assert (report["reason"], report["stop"]) == ("stalled", {"why": "stalled"})


def test_files_of_during_and_output_are_a_sign_of_life_where_no_progress_is_told(
    coordinator: FakeCoordinator, worker: Worker, bucket: str
) -> None:
    """Each goes on for longer than a stall takes."""
    script = """
        for n in 1 2 3 4 5 6 7; do echo $n; sleep 0.5; done
        for n in 1 2 3 4 5 6 7; do echo $n > ck/n; sleep 0.5; done
    """
    job = coordinator.submit(
        **shell(script), sync={"during": [block(bucket, "ck")]}, stall_after=3, on_stall="fail"
    )
    worker.start()
    assert finished(coordinator, job)[0] == "completed"


def test_the_end_of_the_output_is_sent_in_pieces_and_masked(coordinator: FakeCoordinator, worker: Worker) -> None:
    script = f"""
        echo first; {UNTIL_TOLD}; rm go
        printf 'key sword'; echo $TOKEN | cut -c 6-; {UNTIL_TOLD}; echo last >&2
    """
    job = coordinator.submit(
        **shell(script), sync={}, keep_output=65536, environment={"TOKEN": "swordfish"}, heartbeat_interval=1
    )
    worker.start()
    wait_for(lambda: coordinator.pieces(job) == [(0, b"first\n")], "the first piece")
    coordinator.wishes = {"watched": True}
    (worker.folder / "go").touch()
    wait_for(lambda: coordinator.output(job).endswith(b"key *********\n"), "the second piece")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.output(job) == b"first\nkey *********\nlast\n"
    assert told(coordinator, job, "output_bytes")[-1] <= len(coordinator.output(job))


def test_what_is_printed_faster_than_it_is_sent_is_left_out_in_the_middle(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    script = "import os\nfor n in range(300): os.write(1, b'%07d\\n' % n * 1000)"
    job = coordinator.submit(**python(script), sync={}, keep_output=65536)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    pieces = coordinator.pieces(job)
    assert all(len(content) <= 65536 for _, content in pieces)
    start, content = pieces[-1]
    assert start + len(content) == 300 * 8000 and content.endswith(b"0000299\n" * 1000)


@dataclass(frozen=True)
class End:
    """A way in which an attempt ends: what the command does once it was told to, and what is done to it."""

    last: str = ":"
    on_term: str = "echo last; exit"
    wishes: dict[str, Any] = field(default_factory=dict)
    signal: signal.Signals | None = None


ENDS = {
    "completed": End("echo last"),
    "failed": End("echo last; exit 3"),
    "failed by a signal": End("echo last; kill -9 $$"),
    "held": End(FOR_EVER, wishes={"stop": {"why": "hold"}}),
    "killed after its grace": End(FOR_EVER, on_term="echo last", wishes={"stop": {"why": "interrupt"}}),
    "given back by a worker that ends": End(FOR_EVER, signal=signal.SIGTERM),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_a_command_printed_last_is_sent_however_its_attempt_ends(
    coordinator: FakeCoordinator, worker: Worker, end: End
) -> None:
    script = f"trap '{end.on_term}' TERM; echo first; {UNTIL_TOLD}; {end.last}"
    job = coordinator.submit(**shell(script), sync={}, keep_output=65536)
    worker.start(KELPIE_SHUTDOWN_GRACE_S="4")
    wait_for(lambda: coordinator.output(job) == b"first\n", "the first piece")
    coordinator.wishes = end.wishes
    (worker.folder / "go").touch()
    if end.signal:
        worker.signal(end.signal)
    finished(coordinator, job)
    assert b"last\n" in coordinator.output(job)  # after it the shell may say that what it ran was terminated


def test_what_was_printed_last_comes_before_the_report_to_a_coordinator_that_was_away(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell(f"echo first; {UNTIL_TOLD}; echo last"), sync={}, keep_output=65536)
    worker.start()
    wait_for(lambda: coordinator.output(job) == b"first\n", "the first piece")
    coordinator.down = True
    (worker.folder / "go").touch()
    worker.wait_for("api_unreachable", failures=2)
    coordinator.down = False
    assert finished(coordinator, job)[0] == "completed"
    assert coordinator.output(job) == b"first\nlast\n"


@pytest.mark.parametrize("status", [400, 413])
def test_a_coordinator_that_takes_no_output_delays_nothing(
    coordinator: FakeCoordinator, worker: Worker, status: int
) -> None:
    coordinator.refuses_output = status
    job = coordinator.submit(**shell("echo hello"), sync={}, keep_output=65536)
    worker.start()
    assert finished(coordinator, job)[0] == "completed"
    assert len(worker.seen("output_refused")) == 1


def test_a_coordinator_that_does_not_answer_a_piece_delays_neither_the_command_nor_a_heartbeat(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    coordinator.takes_output = threading.Event()
    job = coordinator.submit(**shell(f"echo hello; {UNTIL_TOLD}; echo done"), sync={}, keep_output=65536)
    worker.start()
    wait_for(lambda: coordinator.output(job) == b"hello\n", "the piece")
    before = coordinator.heartbeats(job)
    wait_for(lambda: coordinator.heartbeats(job) > before + 2, "more heartbeats")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    coordinator.takes_output.set()


def test_a_gigabyte_without_a_line_end_passes_in_no_memory(coordinator: FakeCoordinator, worker: Worker) -> None:
    script = (
        "import os, sys\nblock = b'x' * 65536\nfor _ in range(16384): os.write(1, block)\nopen('printed', 'w')\n"
    )
    script += "import time\nwhile not os.path.exists('go'): time.sleep(0.05)"
    job = coordinator.submit(**python(script), sync={}, keep_output=65536)
    worker.start(through=["sh", "-c", 'exec "$@" > /dev/null', "sh"])
    wait_for((worker.folder / "printed").exists, "a gigabyte to be printed", timeout=60)
    status = Path(f"/proc/{worker.child('runner')}/status").read_text()
    assert int(status.partition("VmHWM:")[2].split()[0]) < 120_000, "kB"
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"
    start, content = coordinator.pieces(job)[-1]
    assert start + len(content) == 1 << 30


def test_a_restarted_worker_repeats_its_claim_for_what_it_did_not_save(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(
        **shell(f"echo $TOKEN > seen; {UNTIL_TOLD}"), sync={}, environment={"TOKEN": "canary"}, keep_output=100
    )
    worker.start()
    wait_for((worker.folder / "seen").exists, "the command to run")
    worker.kill()
    assert "canary" not in worker.state_file.read_text()
    (worker.folder / "seen").unlink()
    worker.start()
    wait_for((worker.folder / "seen").exists, "the command to run again")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed" and coordinator.attempts(job) == 1
    claims = [call.query["claim_id"] for call in coordinator.calls if call.path == "/work"]
    assert claims.count(claims[0]) == 2
    assert not [call for call in coordinator.calls if (call.method, call.path) == ("GET", f"/jobs/{job}")]


def test_the_output_of_a_command_that_is_begun_again_follows_that_of_before(
    coordinator: FakeCoordinator, worker: Worker
) -> None:
    job = coordinator.submit(**shell(f"echo begun; {UNTIL_TOLD}"), sync={}, keep_output=100)
    worker.start()
    wait_for(lambda: coordinator.output(job) == b"begun\n", "the first piece")
    os.kill(worker.child("runner"), signal.SIGKILL)
    wait_for(lambda: coordinator.output(job) == b"begun\nbegun\n", "the piece of a command in the same worker")
    worker.kill()
    worker.start()
    wait_for(lambda: coordinator.output(job) == b"begun\nbegun\nbegun\n", "the piece of a command after it")
    (worker.folder / "go").touch()
    assert finished(coordinator, job)[0] == "completed"


@pytest.mark.parametrize(("counts", "left"), [(False, False), (True, True)])
def test_a_failure_that_does_not_count_is_none_of_this_machine(
    coordinator: FakeCoordinator, worker: Worker, counts: bool, left: bool
) -> None:
    coordinator.counts = counts
    job = coordinator.submit(**shell("exit 3"), sync={})
    following = coordinator.submit(**shell("exit 0"), sync={})
    worker.start(MAX_JOB_FAILURES="1")
    assert finished(coordinator, job)[0] == "failed"
    if left:
        worker.wait_for("instance_not_left")
        return
    assert finished(coordinator, following)[0] == "completed"
    assert not worker.seen("instance_not_left")
