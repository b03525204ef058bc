"""Manifests of checkpoints on their way to the coordinator, and how they overtake each other."""

from __future__ import annotations

import threading
from typing import Any

from kelpie_worker.coordinator.checkpoint_reports import CheckpointReports
from kelpie_worker.coordinator.client import ManifestRefused, Unreachable
from kelpie_worker.job import Job, StoredObject
from kelpie_worker.messages import ReportCheckpoint

REPORTED = (StoredObject("b", "c/w", 5, "e1"), StoredObject("b", "c/latest", 1, "e2"))


class Server:
    """Answers as the API client would; `answers` come first, then every manifest is kept."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.told: list[tuple[int, int]] = []  # (generation, files)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def keeps_checkpoints(self, job: Job) -> bool:
        return True

    def report_checkpoint(self, job: Job, generation: int, manifest: tuple[StoredObject, ...]) -> int | None:
        self.told.append((generation, len(manifest)))
        self.may_answer.wait(10)
        answer = self.answers.pop(0) if self.answers else generation
        if isinstance(answer, Exception):
            raise answer
        return int(answer)


def send(server: Server, *generations: int) -> None:
    manifests = CheckpointReports(server, lambda seconds: None)  # type: ignore[arg-type]
    for generation in generations:
        manifests.send(ReportCheckpoint(Job("claim", "job", attempt=1), generation, REPORTED))
    server.may_answer.set()
    manifests.wait_for("claim", 10)
    assert not manifests._attempts["claim"].is_sending


def test_a_manifest_is_sent_until_it_is_answered() -> None:
    server = Server(Unreachable("away"), Unreachable("away"))
    send(server, 1)
    assert server.told == [(1, 2)] * 3


def test_one_that_is_overtaken_while_another_is_sent_is_left_out() -> None:
    server = Server()
    server.may_answer.clear()
    send(server, 1, 2, 3)
    assert server.told[-1] == (3, 2)
    assert len(server.told) <= 2


def test_numbers_go_on_where_an_earlier_run_of_the_worker_ended() -> None:
    server = Server(57)
    manifests = CheckpointReports(server, lambda seconds: None)  # type: ignore[arg-type]
    for generation in (1, 2):
        manifests.send(ReportCheckpoint(Job("claim", "job", attempt=1), generation, REPORTED))
        manifests.wait_for("claim", 10)
    assert [generation for generation, _ in server.told] == [1, 58, 59]


def test_a_manifest_that_is_refused_leaves_nothing_older_in_its_place() -> None:
    server = Server(ManifestRefused("413"))
    send(server, 4)
    assert server.told == [(4, 2), (4, 0)]
