"""The workers of one machine, which find each other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kelpie_worker.salad.instance_policy import BUSIEST
from kelpie_worker.salad.peers import Peers, PeerState


def test_workers_see_what_the_others_tell_and_forget_those_that_left(tmp_path: Path) -> None:
    directory = str(tmp_path / "run")
    one, two = Peers(directory), Peers(directory)
    assert one.others() == [PeerState()]
    two.tell(PeerState(BUSIEST, True))
    assert one.others() == [PeerState(BUSIEST, True)]
    two.tell(PeerState(7, False))
    assert (one.others(), two.others()) == ([PeerState(7, False)], [PeerState()])
    two.leave()
    assert one.others() == []
    one.leave()
    assert not Path(directory).exists()


def test_the_file_of_a_dead_worker_counts_for_nothing_and_is_removed(tmp_path: Path) -> None:
    one = Peers(str(tmp_path))
    dead = tmp_path / "1-dead.worker"
    dead.write_text(json.dumps({"cost": 9, "holds_job": True}))
    assert one.others() == [] and not dead.exists()
    one.leave()


def test_a_living_worker_that_is_not_understood_is_taken_to_hold_a_job(tmp_path: Path) -> None:
    one, two = Peers(str(tmp_path)), Peers(str(tmp_path))
    os.pwrite(two._file, b"{]" + b" " * 100, 0)
    assert one.others() == [PeerState(0, True)]
    one.leave()
    two.leave()


def test_a_turn_that_is_never_given_back_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie_worker.salad.peers._PATIENCE", 0.05)
    one, two = Peers(str(tmp_path)), Peers(str(tmp_path))
    with one.turn(), two.turn():
        pass
    one.leave()
    two.leave()
