"""What a person says, made into definitions, grids and sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

import kelpie
from kelpie.definitions import definition, seconds
from kelpie.grids import fill, parse_axis, read_csv
from kelpie.operations import plan_sweep


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("45", 45), ("2h", 7200), ("1.5d", 129600), (90, 90), ("1W", 604800)]
)
def test_durations(text: str | int, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "1 year", "-1s", "1e3", "2h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(kelpie.DefinitionError, match="A duration looks like"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-4,3e-4", ("lr", ["1e-4", "3e-4"])),
        ("seed=0..3", ("seed", ["0", "1", "2", "3"])),
        ("n=2..0", ("n", ["2", "1", "0"])),
        ("x=a..b", ("x", ["a..b"])),
    ],
)
def test_axes(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_axis(text) == expected


@pytest.mark.parametrize("text", ["", "lr", "lr=", "=1", "a b=1", "1=2"])
def test_what_is_no_axis_is_refused(text: str) -> None:
    with pytest.raises(kelpie.DefinitionError, match="A parameter looks like"):
        parse_axis(text)


def test_a_grid_is_every_combination() -> None:
    assert kelpie.grid(lr=[1, 2], seed=range(2)) == [
        {"lr": 1, "seed": 0},
        {"lr": 1, "seed": 1},
        {"lr": 2, "seed": 0},
        {"lr": 2, "seed": 1},
    ]
    with pytest.raises(kelpie.DefinitionError, match="has no value"):
        kelpie.grid(lr=[], seed=range(2))


def test_a_template_is_filled_and_the_shells_own_braces_stay() -> None:
    assert fill({"a": ["--lr", "{lr}"], "b": "${lr} {} {1} {lr}x"}, {"lr": 3}) == {
        "a": ["--lr", "3"],
        "b": "${lr} {} {1} 3x",
    }
    with pytest.raises(kelpie.DefinitionError, match=r"\{seed\} is no parameter of this sweep; there are lr"):
        fill("{seed}", {"lr": 1})


def test_a_table_gives_a_job_a_row(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text('lr,note\n1,"a, b"\n2,c\n')
    assert read_csv(file) == [{"lr": "1", "note": "a, b"}, {"lr": "2", "note": "c"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no row"),
        ("a,b\n1\n", "Line 2"),
        ("a\n1,2\n", "Line 2"),
        ("a b\n1\n", "is no name"),
        ("a\n", "no row"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(kelpie.DefinitionError, match=sentence):
        read_csv(file)


def test_a_sweep_that_gives_two_jobs_one_checkpoint_is_refused_with_the_mend() -> None:
    shared = definition(["run", "{x}"], group="g", checkpoint={"c": "s3://b/same"})
    with pytest.raises(kelpie.DefinitionError, match=r"Jobs 0 and 1 would both .*put \{index\}"):
        plan_sweep(shared, kelpie.grid(x=[1, 2]), "s")
    own = definition(["run", "{x}"], group="g", checkpoint={"c": "s3://b/{sweep}/{index}"})
    plan = plan_sweep(own, kelpie.grid(x=[1, 2]), "s")
    assert [job["arguments"] for job in plan.definitions] == [["1"], ["2"]]
    assert plan.definitions[1]["sync"]["during"][0]["prefix"] == "s/1/"
    assert [job["name"] for job in plan.definitions] == ["s-x=1", "s-x=2"]


def test_the_same_sweep_has_the_same_digest_and_another_has_not() -> None:
    template = definition(["run", "{x}"], group="g")
    plan = plan_sweep(template, kelpie.grid(x=[1, 2]), "s")
    assert plan.digest == plan_sweep(template, kelpie.grid(x=[1, 2]), "s").digest
    assert plan.digest != plan_sweep(template, kelpie.grid(x=[1, 3]), "s").digest
    assert plan.digest != plan_sweep(template, kelpie.grid(x=[1, 2]), "s", max_parallel=1).digest


def test_a_job_without_a_command_or_with_files_said_twice_is_refused() -> None:
    with pytest.raises(kelpie.DefinitionError, match="needs a command"):
        definition([], group="g")
    with pytest.raises(kelpie.DefinitionError, match="either sync blocks or"):
        definition(["x"], group="g", sync={}, checkpoint={"c": "s3://b/c"})
