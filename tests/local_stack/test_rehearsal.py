"""A rehearsal names what would lose work, and blames no command that only does it in an unusual way."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from local_stack.processes import scratch_folder
from local_stack.rehearsal import Plan, Rehearsal, RehearsalError, Report
from local_stack.rehearsal.judgement import Names, Run, judge
from local_stack.rehearsal.record import Attempt
from local_stack.rehearsal.rehearsal import BUCKET
from local_stack.stack import LocalStack

BEGINNING = """
    import json, random, time
    from pathlib import Path
    checkpoint, output = Path("checkpoint"), Path("output")
    STEPS = 8

    def work():
        time.sleep(0.8)
"""


Rehearsed = Callable[..., Report]


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with scratch_folder() as root, LocalStack(root, web_processes=1) as running:
        running.s3.create_bucket(BUCKET)
        yield running


@pytest.fixture
def rehearsed(stack: LocalStack, tmp_path: Path) -> Rehearsed:
    def rehearse(program: str, **options: object) -> Report:
        image = tmp_path / "image"
        image.mkdir()
        (image / "job.py").write_text(dedent(BEGINNING) + dedent(program))
        with scratch_folder() as root:
            plan = Plan(["python3", "job.py"], folder=image, kills=1, **options)  # type: ignore[arg-type]
            return Rehearsal(plan, root, stack=stack, seed=1).run()

    return rehearse


NEVER_LOOKS = """
    for step in range(1, STEPS + 1):
        work()
        Path("draft").write_text(str(step))
        Path("draft").rename(checkpoint / "step")
    (output / "result").write_text(str(STEPS))
"""

TORN = """
    saved = checkpoint / "state.json"
    step = json.loads(saved.read_text())["step"] if saved.exists() else 0
    while step < STEPS:
        work()
        step += 1
        with saved.open("w") as file:
            file.write('{"step": ')
            file.flush()
            time.sleep(0.03)
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
        work()
        step += 1
        with log.open("a") as file:
            file.write(f"step {step}\\n")
    (output / "result").write_text(str(step))
"""

RANDOM = """
    saved = checkpoint / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    while step < STEPS:
        work()
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
        work()
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
    [
        (NEVER_LOOKS, "never looks for its checkpoint"),
        (TORN, "state.json is rewritten in place"),
        (ELSEWHERE, "It wrote result.txt elsewhere"),
    ],
    ids=["never-looks", "torn", "elsewhere"],
)
def test_a_bad_command_is_told_what_it_does_wrong(rehearsed: Rehearsed, program: str, sentence: str) -> None:
    report = rehearsed(program)
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
def test_an_unusual_command_is_not_blamed(rehearsed: Rehearsed, program: str, options: dict[str, str]) -> None:
    report = rehearsed(program, **options)
    assert report.findings == [], report
    assert re.match(r"resumed (\d) of \1, outputs (identical|alike), ", report.summary), report


@pytest.mark.parametrize("name", ["/checkpoint", "../checkpoint", ""])
def test_a_directory_that_outlives_the_machine_is_refused(name: str) -> None:
    with pytest.raises(RehearsalError, match="must be a relative one"):
        Plan(["true"], checkpoint=name).check()


def run_of(*attempts: Attempt, completed: bool = True, **files: bytes) -> Run:
    return Run(attempts, completed, files)


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


def test_a_checkpoint_that_is_said_by_the_names_of_files_is_looked_for() -> None:
    reference = run_of(Attempt(0.0, 0, ended=10.0, code=0, writes=[3.0, 6.0]), result=b"1")
    killed = Attempt(20.0, 0, ended=27.0, writes=[26.0])
    named = run_of(killed, Attempt(30.0, 1, "clean", ended=34.0, code=0), result=b"1")
    assert judge(reference, named, NAMES, None, []).findings == []
