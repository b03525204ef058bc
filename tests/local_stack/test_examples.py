"""The examples keep their promise: killed anywhere and started again, they leave the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local_stack.processes import wait_for

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EPOCHS = 12
LIMIT = 60


def python(script: str, *arguments: object, **environment: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def kill_after(process: subprocess.Popen[str], step: int) -> None:
    """Read along until a step is reported, then kill -9."""
    assert process.stdout is not None
    for line in process.stdout:
        if f"step {step} of" in line and "resumed" not in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(folder: Path, **environment: object) -> subprocess.Popen[str]:
    places = [folder.parent / "digits", folder / "checkpoints", folder / "output"]
    return python("digits/train.py", *places, "--epochs", EPOCHS, **environment)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set, and in `trained` what an uninterrupted training leaves."""
    workshop = tmp_path_factory.mktemp("examples")
    finish(python("digits/prepare.py", workshop / "digits"))
    finish(train(workshop / "trained"))
    return workshop


@pytest.fixture
def trained(workshop: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil, beside the data set."""
    shutil.copytree(workshop, tmp_path, dirs_exist_ok=True)
    return tmp_path / "trained"


def test_a_training_killed_three_times_ends_with_the_same_bytes(tmp_path: Path, trained: Path) -> None:
    killed = tmp_path / "killed"
    for step in sorted(random.sample(range(1, EPOCHS), 3)):
        kill_after(train(killed, SECONDS_PER_EPOCH=0.02), step)
    assert "resumed from step" in finish(train(killed))
    assert files_in(killed / "output") == files_in(trained / "output")


def test_the_training_learns_to_read(tmp_path: Path, trained: Path) -> None:
    output = tmp_path / "output"
    finish(python("digits/train.py", tmp_path / "digits", tmp_path / "checkpoints", output))
    assert json.loads((output / "metrics.json").read_text())["accuracy"] > 0.95


def newest_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("epoch-*"))


def drop_index(checkpoint: Path) -> None:
    (checkpoint / "index.json").unlink()


def drop_weights(checkpoint: Path) -> None:
    (checkpoint / "weights.npz").unlink()


def cut_index(checkpoint: Path) -> None:
    (checkpoint / "index.json").write_text('{"weights.npz": "')


def mix_with_older_optimizer(checkpoint: Path) -> None:
    older = min(checkpoint.parent.glob("epoch-*"))
    shutil.copy(older / "optimizer.npz", checkpoint / "optimizer.npz")


Tear = Callable[[Path], None]
TEARS: list[Tear] = [drop_index, drop_weights, cut_index, mix_with_older_optimizer]


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, trained: Path, tear: Tear) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(trained / "checkpoints", torn / "checkpoints")
    tear(newest_checkpoint(torn))
    output = finish(train(torn))
    assert f"passing over epoch-{EPOCHS:04d}" in output
    assert f"resumed from step {EPOCHS - 1} of {EPOCHS}" in output
    assert files_in(torn / "output") == files_in(trained / "output")


def test_a_training_refuses_to_start_over_when_every_checkpoint_is_damaged(trained: Path) -> None:
    for checkpoint in (trained / "checkpoints").glob("epoch-*"):
        drop_weights(checkpoint)
    process = train(trained)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no checkpoint" in output
    assert "starts" not in output


def test_a_first_checkpoint_that_was_never_finished_is_no_reason_to_refuse(tmp_path: Path, trained: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(newest_checkpoint(trained), unfinished / "checkpoints" / "epoch-0001")
    drop_index(newest_checkpoint(unfinished))
    assert "digits: starts" in finish(train(unfinished))
    assert files_in(unfinished / "output") == files_in(trained / "output")


def count(folder: Path, **environment: object) -> subprocess.Popen[str]:
    (folder / "input").mkdir(parents=True, exist_ok=True)
    (folder / "input" / "limit.txt").write_text(str(LIMIT))
    places = {f"{name.upper()}_DIR": folder / name for name in ("input", "checkpoint", "output")}
    return python("counting/count.py", **places, **environment)


def test_a_count_killed_three_times_ends_with_the_same_bytes(tmp_path: Path) -> None:
    finish(count(tmp_path / "whole"))
    for step in (10, 20, 40):
        kill_after(count(tmp_path / "killed", SECONDS_PER_STEP=0.005), step)
    assert f"resumed from step 40 of {LIMIT}" in finish(count(tmp_path / "killed"))
    assert files_in(tmp_path / "killed" / "output") == files_in(tmp_path / "whole" / "output")


def test_a_count_refuses_a_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "count.json").write_text('{"number": 4')
    process = count(tmp_path)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "damaged" in output
    assert not (tmp_path / "output").exists()


def test_each_example_tells_how_far_it_is_and_a_resumed_one_tells_it_at_once(tmp_path: Path) -> None:
    told = {"KELPIE_PROGRESS": str(tmp_path / "progress.json")}

    def progress() -> Any:
        return json.loads((tmp_path / "progress.json").read_text())

    finish(count(tmp_path, **told))
    assert progress() == {"step": LIMIT, "total": LIMIT}
    kill_after(count(tmp_path / "killed", SECONDS_PER_STEP=0.005), 20)
    process = count(tmp_path / "killed", SECONDS_PER_STEP=5, **told)
    wait_for(lambda: progress() == {"step": 20, "total": LIMIT}, "the progress of what was saved")
    process.kill()
    process.communicate()
    finish(python("digits/prepare.py", tmp_path / "digits"))
    finish(train(tmp_path / "trained", **told))
    assert progress().keys() == {"step", "total", "loss"} and progress()["step"] == EPOCHS
    finish(python("montecarlo/simulate.py", tmp_path / "blocks", 1, 2, **told))
    assert progress() == 1.0
    lines = finish(relay(tmp_path / "relay", "steps")).splitlines()
    percents = [line for line in lines if line.startswith("openjd_progress: ")]
    assert (percents[0], percents[-1], len(percents)) == ("openjd_progress: 0", "openjd_progress: 100", 9)


def relay(folder: Path, layout: str, **environment: str) -> subprocess.Popen[str]:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    (folder / "in" / "data").write_text("input")
    return subprocess.Popen(
        [EXAMPLES / "container" / "relay.sh", "8", layout],
        cwd=folder,
        env={**os.environ, "SECONDS_PER_STEP": "0.02", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def is_at(folder: Path, step: int) -> bool:
    latest = folder / "checkpoint" / "latest"
    return latest.exists() and int(latest.read_text()) >= step


@pytest.mark.parametrize("layout", ["steps", "names"])
def test_a_relay_killed_three_times_ends_with_the_same_bytes(tmp_path: Path, layout: str) -> None:
    finish(relay(tmp_path / "whole", "steps"))
    killed = tmp_path / "killed"
    for step in (1, 3, 5):
        process = relay(killed, layout)
        wait_for(partial(is_at, killed, step), f"step {step}", pause=0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(relay(killed, layout))
    assert files_in(killed / "out") == files_in(tmp_path / "whole" / "out")


@pytest.mark.parametrize(("status", "code", "told"), [("torn", 0, "torn, from the start"), ("clean", 70, "torn")])
def test_a_relay_notices_a_torn_checkpoint(tmp_path: Path, status: str, code: int, told: str) -> None:
    finish(relay(tmp_path, "names"))
    part = tmp_path / "checkpoint" / "files" / "two"
    part.write_text(part.read_text().replace("8 ", "7 ", 1))
    process = relay(tmp_path, "names", KELPIE_CHECKPOINT_STATUS=status)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, told in output) == (code, True), output


def test_monte_carlo_blocks_do_not_depend_on_other_blocks(tmp_path: Path) -> None:
    finish(python("montecarlo/simulate.py", tmp_path / "together", 0, 1, 2))
    for block in (2, 0, 1):
        finish(python("montecarlo/simulate.py", tmp_path / "alone", block))
    assert files_in(tmp_path / "alone") == files_in(tmp_path / "together")


def test_gathered_blocks_come_close_to_the_formula(tmp_path: Path) -> None:
    finish(python("montecarlo/simulate.py", tmp_path, *range(10)))
    line = finish(python("montecarlo/gather.py", tmp_path)).split()
    estimate, error, formula = float(line[2]), float(line[4]), float(line[6].rstrip(")"))
    assert abs(estimate - formula) < 4 * error
