"""A rehearsal names what would lose work, and blames no command that only does it in an unusual way."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from kelpie.cli import run as kelpie
from local_stack.processes import CHECKOUT, scratch_folder
from local_stack.rehearsal import rehearsal
from local_stack.rehearsal.judgement import Names, Report, Run, judge
from local_stack.rehearsal.record import Attempt, Record
from local_stack.rehearsal.rehearsal import BUCKET, RECORDER, Plan, Rehearsal, RehearsalError, write_plan
from local_stack.stack import LocalStack
from tests.local_stack.pace import set_pace
from tests.warm_worker import WarmChild

EXAMPLES = CHECKOUT / "examples"
# A pause of a command that sleeps ends when what it saved is in the bucket (`set_pace`).
BEGINNING = """
    import json, random, time
    from pathlib import Path
    checkpoint, output = Path("checkpoint"), Path("output")
    STEPS = 4
"""
COMMAND = [sys.executable, "job.py"]


Rehearsed = Callable[..., Report]


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with scratch_folder() as root, LocalStack(root, web_processes=1, worker_process=WarmChild) as running:
        running.s3.create_bucket(BUCKET)
        yield running


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a machine has on its disk when it begins; what is rehearsed from there is paced."""
    set_pace(tmp_path / "pace", monkeypatch)
    (tmp_path / "image").mkdir()
    return tmp_path / "image"


def write_job(image: Path, program: str) -> None:
    (image / "job.py").write_text(dedent(BEGINNING) + dedent(program))


@pytest.fixture
def rehearsed(stack: LocalStack, image: Path) -> Rehearsed:
    def rehearse(command: list[str], **options: object) -> Report:
        """With one kill, in the middle of an upload."""
        with scratch_folder() as root:
            plan = Plan(command, folder=image, kills=0, **options)  # type: ignore[arg-type]
            return Rehearsal(plan, root, stack=stack, seed=1).run()

    return rehearse


NEVER_LOOKS = """
    for step in range(1, STEPS + 1):
        time.sleep(1)
        Path("draft").write_text(f"{step} {random.random()}")
        Path("draft").rename(checkpoint / "step")
    (output / "result").write_text(str(STEPS))
"""

# Long in the middle of its second write and of those after it.
TORN = """
    import os, threading
    saved = checkpoint / "state.json"
    step = json.loads(saved.read_text())["step"] if saved.exists() else 0
    while step < 4:
        step += 1
        with saved.open("w") as file:
            file.write('{"step": ')
            file.flush()
            threading.Event().wait(1 if step >= 2 else 0)
            file.write(f"{step}}}")
    (output / "result").write_text(str(step))
"""

ELSEWHERE = """
    (checkpoint / "step").write_text("1")
    Path("result.txt").write_text("1")
"""

APPENDED = """
    log = checkpoint / "log"
    with log.open("a+") as file:
        file.seek(0)
        step = len(file.read().splitlines())
    while step < STEPS:
        time.sleep(1)
        step += 1
        with log.open("a") as file:
            file.write(f"step {step}\\n")
    (output / "result").write_text(str(step))
"""

RANDOM = """
    saved = checkpoint / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    while step < STEPS:
        time.sleep(1)
        step += 1
        Path("draft").write_text(str(step))
        Path("draft").rename(saved)
    (output / "result").write_text(f"{step} {random.random()}")
"""

SAME_BEGINNING = "sh -c 'test $(cut -c1-2 {a}/result) = $(cut -c1-2 {b}/result)'"

RENAMED = """
    found = sorted(checkpoint.glob("step-*/step.json"))
    step = json.loads(found[-1].read_text()) if found else 0
    while step < STEPS:
        time.sleep(1)
        step += 1
        draft = Path(f"draft-{step}")
        draft.mkdir()
        (draft / "weights").write_bytes(b"w" * 1000)
        (draft / "step.json").write_text(str(step))
        target = checkpoint / f"step-{step:03}"
        if target.exists():  # of a kill between its two files
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        draft.rename(target)
        for old in sorted(checkpoint.glob("step-*"))[:-2]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
    (output / "result").write_text(str(step))
"""


@pytest.mark.parametrize(
    ("program", "sentence"),
    [(NEVER_LOOKS, "never looks for its checkpoint"), (TORN, "state.json is rewritten in place")],
    ids=["never-looks", "torn"],
)
def test_a_bad_command_is_told_what_it_does_wrong(
    image: Path, rehearsed: Rehearsed, program: str, sentence: str
) -> None:
    write_job(image, program)
    report = rehearsed(COMMAND)
    assert len(report.findings) == 1, report
    assert sentence in report.findings[0]


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (APPENDED, {}),
        (RANDOM, {"compare": SAME_BEGINNING}),
        (RENAMED, {}),
    ],
    ids=["appended", "random", "renamed"],
)
def test_an_unusual_command_is_not_blamed(
    image: Path, rehearsed: Rehearsed, program: str, options: dict[str, str]
) -> None:
    write_job(image, program)
    assert_resumed(rehearsed(COMMAND, **options))


def assert_resumed(report: Report) -> None:
    assert report.findings == [], report
    assert re.match(r"resumed ([1-9]) of \1, outputs (identical|alike), ", report.summary), report


def test_the_training_of_the_examples_resumes(image: Path, rehearsed: Rehearsed) -> None:
    shutil.copytree(EXAMPLES / "digits", image, dirs_exist_ok=True)
    subprocess.run([sys.executable, image / "prepare.py", image / "digits"], check=True)
    assert_resumed(rehearsed([sys.executable, "train.py", "digits", "checkpoint", "output", "--epochs", "4"]))


def test_the_container_of_the_examples_resumes(image: Path, rehearsed: Rehearsed) -> None:
    shutil.copy(EXAMPLES / "container" / "relay.sh", image)
    (image / "in").mkdir()
    (image / "in" / "data").write_text("input")
    assert_resumed(rehearsed(["./relay.sh", "4"], output="out"))


def test_the_blocks_of_the_examples_resume(image: Path, rehearsed: Rehearsed) -> None:
    for name in ("simulate.py", "gather.py"):
        shutil.copy(EXAMPLES / "montecarlo" / name, image)
    blocks = f"SECONDS_PER_BLOCK=1 {sys.executable} simulate.py checkpoint 0 1 2 3"
    assert_resumed(rehearsed(["sh", "-c", f"{blocks} && {sys.executable} gather.py checkpoint > output/estimate"]))


@pytest.fixture
def said(
    stack: LocalStack, image: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str]]]:
    """`kelpie rehearse` in the image's folder: its exit code, and the lines on its standard output."""

    def rehearse(*words: str) -> tuple[int, list[str]]:
        monkeypatch.chdir(image)
        monkeypatch.setattr(rehearsal, "Rehearsal", partial(Rehearsal, stack=stack, seed=1))
        code = kelpie(["rehearse", "--kills", "1", *words])
        return code, capfd.readouterr().out.splitlines()

    return rehearse


def test_a_command_that_resumes_exits_with_0_and_a_submission_that_fits(
    image: Path, said: Callable[..., tuple[int, list[str]]]
) -> None:
    shutil.copy(EXAMPLES / "counting" / "count.py", image)
    (image / "input").mkdir()
    (image / "input" / "limit.txt").write_text("50")
    command = [sys.executable, "count.py"]
    code, (summary, submission) = said("--", *command)
    assert (code, submission) == (
        0,
        "kelpie submit -n NAME --checkpoint checkpoint=s3://BUCKET/NAME/checkpoint"
        f" --output output=s3://BUCKET/NAME/output -- {shlex.join(command)}",
    )
    assert_resumed(Report([], summary=summary))


def test_a_command_that_would_lose_work_exits_with_10_and_no_submission(
    image: Path, said: Callable[..., tuple[int, list[str]]]
) -> None:
    write_job(image, ELSEWHERE)
    code, (sentence,) = said("--", *COMMAND)
    assert code == 10
    assert "It wrote result.txt elsewhere" in sentence


@pytest.mark.parametrize("name", ["/checkpoint", "../checkpoint", ""])
def test_a_directory_that_outlives_the_machine_is_refused(name: str) -> None:
    with pytest.raises(RehearsalError, match="must be a relative one"):
        Plan(["true"], checkpoint=name).check()


def run_of(*attempts: Attempt, completed: bool = True, **files: bytes) -> Run:
    return Run(attempts, completed, files)


def test_a_new_file_that_is_written_in_pieces_is_not_taken_for_one_that_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pieces = """for number in range(20):
        with open(f"checkpoint/{number}", "w") as file:
            for _ in range(20):
                print(file=file, flush=True)"""
    record = Record(tmp_path / "record")
    write_plan(tmp_path / "plan", Plan([sys.executable, "-c", pieces]), record, freeze=False)
    subprocess.run([sys.executable, "-I", RECORDER, tmp_path / "plan"], check=True)
    (attempt,) = record.attempts()
    assert (attempt.in_place, attempt.code) == ([], 0)


NAMES = Names("checkpoint", "output")


def test_part_of_a_checkpoint_that_ends_the_command_is_named() -> None:
    reference = run_of(Attempt(0.0, 0, ended=10.0, code=0, writes=[3.0, 6.0]), result=b"1")
    killed = Attempt(20.0, 0, ended=25.0, writes=[23.0])
    fell = run_of(killed, Attempt(30.0, 1, "torn", ended=31.0, code=1, reads=["a"]), completed=False)
    (finding,) = judge(reference, fell, NAMES, None, []).findings
    assert "Where a part of a checkpoint is in the bucket, it fails: exit code 1" in finding


def test_another_output_is_named_unless_the_users_own_command_finds_it_alike() -> None:
    reference = run_of(Attempt(0.0, 0, ended=10.0, code=0, writes=[3.0, 6.0]), result=b"1")
    killed = Attempt(20.0, 0, ended=25.0, writes=[23.0])
    other = run_of(killed, Attempt(30.0, 1, "clean", ended=37.0, code=0, reads=["a"]), result=b"2")
    assert "another one: result" in judge(reference, other, NAMES, None, []).findings[0]
    assert judge(reference, other, NAMES, True, []).summary == (
        "resumed 1 of 1, outputs alike, 20 % of the work done twice, a checkpoint every 3.0 s costs 0.0 %,"
        " longest time without one 4.0 s"
    )


def test_a_command_that_saves_as_often_as_ever_after_a_kill_has_not_looked_however_quick_it_was() -> None:
    reference = run_of(Attempt(0.0, 0, ended=10.0, code=0, writes=[3.0, 6.0]), result=b"1")
    killed = Attempt(20.0, 0, ended=29.0, writes=[23.0, 26.0])
    again = run_of(killed, Attempt(30.0, 1, "clean", ended=35.0, code=0, writes=[31.0, 32.0]), result=b"1")
    assert "never looks for its checkpoint" in judge(reference, again, NAMES, None, []).findings[0]


def test_a_checkpoint_that_is_said_by_the_names_of_files_is_looked_for() -> None:
    reference = run_of(Attempt(0.0, 0, ended=10.0, code=0, writes=[3.0, 6.0]), result=b"1")
    killed = Attempt(20.0, 0, ended=27.0, writes=[26.0])
    named = run_of(killed, Attempt(30.0, 1, "clean", ended=34.0, code=0), result=b"1")
    assert judge(reference, named, NAMES, None, []).findings == []
