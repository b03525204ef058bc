"""The environment of the command."""

from __future__ import annotations

from kelpie_worker import config
from kelpie_worker.command.process import command_environment
from kelpie_worker.job import Job

SETTINGS = {"KELPIE_API_KEY": "key", "SALAD_CONTAINER_GROUP_ID": "group"}


def test_the_job_overrides_the_container_and_kelpie_both() -> None:
    job = Job("c", "1", environment={"A": "job", "INPUT_DIR": "job"})
    environment = command_environment(job, config.load(SETTINGS), {"A": "container", "B": "container"})
    assert (environment["A"], environment["B"], environment["INPUT_DIR"]) == ("job", "container", "/input")
    assert environment["KELPIE_JOB_ID"] == "1"
