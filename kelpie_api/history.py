"""What happened to one job, a page at a time: one that is claimed and released for ever has a list without end."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from kelpie_api.db import Database, Row

HistoryPage = tuple[list[Row], int | None]  # the rows, and the number to go on after; None: these are the last
PORTION = 250  # rows that are read at a time, since each may have 64 KiB
LARGEST_PAGE = 32 * 2**20  # characters, about


def page_of(
    db: Database, statement: LiteralString, number: str, job_id: UUID, after: int, page_size: int
) -> HistoryPage:
    """The rows of a job whose `number` is above `after`: `page_size` of them, fewer where they are large.

    Returns them and the number to go on after; None: these are the last.
    """
    found: list[Row] = []
    size, is_end = 0, False
    while not is_end and len(found) <= page_size and size < LARGEST_PAGE:
        most = min(page_size + 1 - len(found), PORTION)
        portion = db.all(statement, job_id=job_id, after=found[-1][number] if found else after, most=most)
        found += portion
        size += sum(len(str(row)) for row in portion)
        is_end = len(portion) < most
    shown = found[:page_size]
    return shown, None if is_end and len(found) <= page_size else shown[-1][number]
