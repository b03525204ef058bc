"""The journal of open multipart uploads: what a crash leaves of it, at any byte."""

from __future__ import annotations

from pathlib import Path

from kelpie_worker.s3.open_uploads import OpenUploads, Upload

FIRST, SECOND = ("id-1", "bucket", "a\nb"), ("id-2", "bucket", "b")


def left_by(path: Path) -> list[Upload]:
    found: list[Upload] = []
    OpenUploads(path).abort_left(found.append)
    return found


def test_only_what_an_earlier_run_left_open_is_aborted(tmp_path: Path) -> None:
    journal = tmp_path / "uploads"
    life = OpenUploads(journal)
    life.begun(FIRST)
    life.begun(SECOND)
    life.over(FIRST[0])
    own: list[Upload] = []
    life.abort_left(own.append)
    assert own == [] and left_by(journal) == [SECOND]
    life.abandon(SECOND[0])
    life.abort_left(own.append)
    assert own == [SECOND]
    life.over(SECOND[0])
    assert not journal.exists()


def test_a_journal_cut_anywhere_and_written_on_costs_nothing_but_the_line_that_was_cut(tmp_path: Path) -> None:
    journal = tmp_path / "uploads"
    OpenUploads(journal).begun(FIRST)
    whole = journal.read_bytes()
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        OpenUploads(journal).begun(SECOND)
        assert left_by(journal) == [SECOND]
