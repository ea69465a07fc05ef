"""Rows without those that the next row makes worthless, so that a long log is folded faster.

Most events are reports of progress, and each of them carries all that is known by then. So of those that follow each
other in one stage of an attempt only the last one is read; of the others, no more is needed than how many they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ftactors.core.errors import LogRefusedError
from ftactors.core.events import ProgressReported
from ftactors.log.rows import Row, stored_name

_PROGRESS = stored_name(ProgressReported)
_ROWS_AT_ONCE = 2_000
"""Seen at once; progress that rows of the next page supersede is read all the same."""
_STAGE = '"stage":"'


@dataclass(slots=True)
class Read:
    """A row that is read, and how many reports of progress just before it, of its job, are not."""

    row: Row
    passed: int
    stage: str | None
    """Of progress; None for any other event."""


def in_brief(rows: Iterable[Row]) -> Iterator[Read]:
    """Yield the rows that are to be read, in their order.

    Raises:
        LogRefusedError: the rows do, after all before have been yielded.
    """
    rows = iter(rows)
    refusal: LogRefusedError | None = None
    while refusal is None:
        page: list[Row] = []
        try:
            page.extend(islice(rows, _ROWS_AT_ONCE))
        except LogRefusedError as error:  # the page has what came before
            refusal = error
        if not page:
            break
        yield from reversed(_newest_first(page))
    if refusal is not None:
        raise refusal


def _newest_first(page: list[Row]) -> list[Read]:
    """Return the rows of a page that are to be read."""
    of_job: dict[str | None, Read] = {}
    left: list[Read] = []
    for row in reversed(page):
        is_progress = (row.type, row.v) == _PROGRESS and row.report is not None
        stage = _stage(row.payload) if is_progress else None
        following = of_job.get(row.job_id)
        if stage is not None and following and following.stage == stage and following.row.attempt == row.attempt:
            following.passed += 1
        else:
            of_job[row.job_id] = read = Read(row, 0, stage)
            left.append(read)
    return left


def _stage(payload: str) -> str:
    """Return the stage: names are sorted in the payload, and nothing but numbers and fixed words follows this one."""
    start = payload.rindex(_STAGE) + len(_STAGE)
    return payload[start : payload.index('"', start)]
