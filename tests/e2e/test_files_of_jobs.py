"""What a job saved and left, as a person gets it: checkpoints, files, pull and push."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kelpie.cli import run
from kelpie.meter import START_OF_LINE
from local_stack.processes import wait_for
from local_stack.stack import LocalStack
from tests.doubles.faulty_proxy import FaultyProxy

COMMAND = """
mkdir -p model/layers out/plots && cp in/data out/result && echo curve > out/plots/loss
head -c 300000 /dev/zero > model/layers/one && echo 7 > model/step && echo seven > log
mkdir -p logs && mv log logs/log
"""
OUTPUTS = {"result": b"input", "plots/loss": b"curve\n"}
CHECKPOINT = {"model/layers/one": bytes(300000), "model/step": b"7\n", "logs/log": b"seven\n"}

Kelpie = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kelpie(
    stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Kelpie:
    """A command: its exit code, standard output, and standard error."""
    settings = {"HOME": str(tmp_path), "KELPIE_API_URL": stack.api_url, "KELPIE_API_KEY": stack.user_key}
    for name, value in {**settings, **stack.s3.environment}.items():
        monkeypatch.setenv(name, value)

    def said(*words: str) -> tuple[int, str, str]:
        code = run(list(words))
        return code, *capfd.readouterr()

    return said


@pytest.fixture(scope="module")
def made(stack: LocalStack) -> str:
    """The name of a job that ran to its end, of its group, and of its bucket."""
    name = f"files-{uuid.uuid4().hex[:8]}"
    stack.s3.create_bucket(name)
    stack.s3.put(name, "in/data", b"input")

    def block(folder: str, direction: str) -> dict[str, str]:
        return {"bucket": name, "prefix": f"{folder}/", "local_path": folder, "direction": direction}

    sync = {
        "before": [block("in", "download")],
        "during": [block("model", "upload"), block("logs", "upload")],
        "after": [block("out", "upload")],
    }
    job = {"name": name, "command": "sh", "arguments": ["-c", COMMAND], "container_group_id": name, "sync": sync}
    job_id = stack.client.submit({**job, "heartbeat_interval": 1})["id"]
    worker = stack.start_worker(name, {"SALAD_CONTAINER_GROUP_ID": name})
    wait_for(lambda: stack.client.job(job_id)["status"] == "completed", "the job to complete", timeout=60)
    worker.vanish()
    return name


@pytest.fixture
def proxy(stack: LocalStack, kelpie: Kelpie, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A way to the storage that can break, which commands take."""
    proxy = FaultyProxy(stack.s3.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy
    proxy.close()


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_outputs_and_checkpoint_of_a_job_are_brought_as_it_left_them(
    made: str, kelpie: Kelpie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = kelpie("pull", made, str(tmp_path / "outputs"))
    assert (code, out, err) == (0, "", f"2 files are in {tmp_path}/outputs.\n")
    assert files_in(tmp_path / "outputs") == OUTPUTS
    monkeypatch.setattr("kelpie.meter.is_shown", lambda: True)
    code, out, err = kelpie("pull", made, "--checkpoint", str(tmp_path / "saved"))
    assert (code, out) == (0, "")
    assert err.endswith(f"{START_OF_LINE}3 files are in {tmp_path}/saved.\n")
    assert "0 B of 300.0 kB" in err
    assert files_in(tmp_path / "saved") == CHECKPOINT
    assert (tmp_path / "saved" / "model" / "step").stat().st_mode & 0o777 == 0o666 & ~umask(tmp_path)


def umask(folder: Path) -> int:
    (folder / "mode").touch()
    return 0o666 & ~(folder / "mode").stat().st_mode


def test_the_files_of_a_job_are_listed_by_what_they_are_for(made: str, kelpie: Kelpie) -> None:
    code, out, _ = kelpie("files", made)
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert [(part, int(size), url) for part, size, _, url in rows] == [
        ("before", 5, f"s3://{made}/in/data"),
        ("during", 300000, f"s3://{made}/model/layers/one"),
        ("during", 2, f"s3://{made}/model/step"),
        ("during", 6, f"s3://{made}/logs/log"),
        ("after", 6, f"s3://{made}/out/plots/loss"),
        ("after", 5, f"s3://{made}/out/result"),
    ]
    code, out, err = kelpie("checkpoints", made)
    listed = {url: int(size) for size, url in (line.split("\t") for line in out.splitlines())}
    assert listed == {f"s3://{made}/{name}": len(content) for name, content in CHECKPOINT.items()}
    assert "of attempt 1" in err
    assert json.loads(kelpie("checkpoints", made, "--json")[1])["attempt"] == 1


def test_a_file_of_a_checkpoint_that_was_changed_in_the_bucket_is_named_and_not_brought(
    stack: LocalStack, made: str, kelpie: Kelpie, tmp_path: Path
) -> None:
    stack.s3.put(made, "model/step", b"8\n")
    code, _, err = kelpie("pull", made, "--checkpoint", str(tmp_path / "saved"))
    assert (code, err) == (1, f"s3://{made}/model/step was overwritten meanwhile; it is not what the job saved.\n")
    stack.s3.delete(made, "model/step")
    code, _, err = kelpie("pull", made, "--checkpoint", str(tmp_path / "saved"))
    assert (code, err) == (1, f"s3://{made}/model/step is not there any more.\n")
    assert not (tmp_path / "saved" / "model" / "step").exists()
    stack.s3.put(made, "model/step", b"7\n")
    assert kelpie("pull", made, "--checkpoint", str(tmp_path / "saved"))[0] == 0, "the same bytes again"


def test_an_output_that_was_changed_after_the_jobs_end_is_named(
    stack: LocalStack, made: str, kelpie: Kelpie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kelpie.commands.files.CLOCKS_APART", timedelta())

    def is_named() -> bool:
        stack.s3.put(made, "out/result", b"input")  # storage tells times by the second
        code, _, err = kelpie("pull", made, str(tmp_path / "outputs"))
        assert code == 0
        return f"Warning: s3://{made}/out/result was changed" in err

    wait_for(is_named, "a second to be over", pause=0.3)


def test_a_download_that_ends_early_is_repeated_and_never_left_under_its_name(
    made: str, kelpie: Kelpie, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.break_in_turn(["truncate", "truncate"], "GET", "/out/result")
    assert kelpie("pull", made, str(tmp_path / "outputs"))[0] == 0
    assert files_in(tmp_path / "outputs") == OUTPUTS
    proxy.fault = lambda method, path: "truncate" if path.endswith("/one") else None
    code, _, err = kelpie("pull", made, "--checkpoint", str(tmp_path / "saved"))
    assert code == 1
    assert err.startswith(f"s3://{made}/model/layers/one: ") and err.count("\n") == 1
    assert "one" not in {path.name for path in (tmp_path / "saved").rglob("*")}
    assert not list((tmp_path / "saved").rglob(".kelpie*"))


@pytest.mark.parametrize("key", ["../../evil", "/{outside}/evil", "plots/../../evil", "plots"])
def test_a_key_that_leads_out_of_the_directory_or_into_a_file_is_refused_before_anything_is_brought(
    stack: LocalStack, made: str, kelpie: Kelpie, tmp_path: Path, key: str
) -> None:
    key = f"out/{key}".replace("{outside}", str(tmp_path).strip("/"))
    stack.s3.put(made, key, b"evil")
    try:
        code, _, err = kelpie("pull", made, str(tmp_path / "deep" / "outputs"))
    finally:
        stack.s3.delete(made, key)
    assert code == 1
    assert f"s3://{made}/{key} would" in err and err.endswith("; nothing was brought.\n")
    assert files_in(tmp_path) == {}


def test_a_link_in_the_directory_is_not_followed_out_of_it(made: str, kelpie: Kelpie, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs" / "plots").symlink_to(tmp_path / "elsewhere")
    code, _, err = kelpie("pull", made, str(tmp_path / "outputs"))
    assert (code, list((tmp_path / "elsewhere").iterdir())) == (1, [])
    assert "leads out of" in err


def test_a_directory_that_is_pushed_is_the_input_that_the_next_job_brings(
    stack: LocalStack, made: str, kelpie: Kelpie, tmp_path: Path
) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "one").write_text("1")
    (tmp_path / "data" / "sub" / "zwei drei").write_text("23")
    code, out, err = kelpie("push", str(tmp_path / "data"), f"s3://{made}/pushed")
    assert (code, out, err) == (0, "", f"2 files are at s3://{made}/pushed/\n"), "no bar without a terminal"
    assert stack.s3.files(made, "pushed/") == {"one": b"1", "sub/zwei drei": b"23"}


def test_storage_that_refuses_and_a_job_without_files_are_told_in_one_sentence(
    stack: LocalStack, made: str, kelpie: Kelpie, tmp_path: Path, proxy: FaultyProxy
) -> None:
    proxy.fault = lambda method, path: "403"
    code, _, err = kelpie("pull", made, str(tmp_path))
    assert (code, err) == (1, f"s3://{made}/out/: the storage refused it (AccessDenied): Not now.\n")
    proxy.fault = lambda method, path: None
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "file").touch()
    code, _, err = kelpie("push", str(tmp_path / "sent"), "s3://no-such-bucket/x")
    assert code == 1
    assert err.startswith("s3://no-such-bucket/x/file: ") and err.count("\n") == 1
    bare = stack.client.submit({"command": "true", "container_group_id": made})["id"]
    assert "keeps no outputs" in kelpie("pull", bare, str(tmp_path))[2]
    assert "has no checkpoint" in kelpie("pull", "--checkpoint", bare, str(tmp_path))[2]
    assert kelpie("files", bare)[:2] == (0, "")
