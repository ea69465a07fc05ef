"""Whether the stored rows are the rows that were written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ftactors.log.errors import LogDamagedError
from ftactors.log.rows import START, Head, Mark, Row, chained


def verified(rows: Iterable[Row], head: Head, after: Mark = START) -> Iterator[Row]:
    """Yield the rows that follow `after`, as long as they are those that were written.

    Raises:
        LogDamagedError: a row is missing, changed, or one too many. All rows before it were yielded.
    """
    (seq, row_hash), epoch = after, 0
    witness = head.witness
    for row in rows:
        if row.seq != seq + 1:
            raise LogDamagedError(seq + 1, f"event {seq + 1} is missing; event {row.seq} is there")
        if chained(row_hash, row[:-2], row.payload) != row.hash:
            raise LogDamagedError(row.seq, f"event {row.seq} is not what was written: it does not match its hash")
        if witness is not None and row.seq == witness.seq and row.hash != witness.hash:
            raise LogDamagedError(row.seq, f"event {row.seq} is not the one that the witness beside the log saw")
        seq, row_hash, epoch = row.seq, row.hash, row.epoch
        yield row
    _check_end(Mark(seq, row_hash), epoch, head)


def _check_end(last: Mark, last_epoch: int, head: Head) -> None:
    if last != head.end:
        first = min(last.seq, head.end.seq) + (last.seq != head.end.seq)
        raise LogDamagedError(first, f"the log has events up to {last.seq}, but by its head it ends at {head.end.seq}")
    if last_epoch >= head.epoch:
        raise LogDamagedError(
            last.seq, f"event {last.seq} is of epoch {last_epoch}, but by the log's head this is epoch {head.epoch}"
        )
    if head.witness is not None and head.witness.seq > last.seq:
        raise LogDamagedError(
            last.seq + 1,
            f"events {last.seq + 1} to {head.witness.seq} are lost: they were committed, as the witness beside the log "
            f"says, and the log ends at {last.seq}. Who would rather go on without them deletes the witness",
        )
