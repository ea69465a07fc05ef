"""What every storage must do, whatever it is made of."""

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.log.errors import LogViolatedError
from ftactors.log.rows import START, Head
from tests.log.examples import cancelled, chain, placed, progress, submitted


def test_a_new_log_is_empty_and_in_its_first_epoch(storage_again):
    storage = storage_again()

    assert storage.open() == Head(end=START, epoch=1)
    assert list(storage.read()) == []


def test_what_was_written_is_there_for_the_next_opener_in_a_new_epoch(storage_again):
    storage = storage_again()
    rows = chain([submitted("j1"), progress("j1", 1), progress("j1", 2)], storage.open().end, epoch=1)
    storage.write(rows[:1])
    storage.write(rows[1:])
    storage.close()

    later = storage_again()
    head = later.open()

    assert (head.end, head.epoch) == (rows[-1].mark, 2)
    assert list(later.read()) == rows
    assert [type(value) for row in later.read() for value in row] == [type(value) for row in rows for value in row]
    later.close()


def test_reading_goes_by_seq_by_job_and_by_number(storage_again):
    storage = storage_again()
    events = [submitted("j1"), submitted("j2"), *(progress(f"j{1 + step % 2}", step) for step in range(20))]
    rows = chain(events, storage.open().end, epoch=1)
    storage.write(rows)
    of_j2 = [row for row in rows if row.job_id == "j2"]

    assert list(storage.read(after=20)) == rows[20:]
    assert list(storage.read(after=3, limit=4)) == rows[3:7]
    assert list(storage.read(job_id="j2")) == of_j2
    assert list(storage.read(job_id="j2", after=of_j2[4].seq, limit=3)) == of_j2[5:8]
    assert list(storage.read(after=22)) == list(storage.read(limit=0)) == list(storage.read(job_id="j3")) == []
    storage.close()


def test_many_rows_are_read_whole(storage_again):
    storage = storage_again()
    rows = chain([progress("j1", step) for step in range(4500)], storage.open().end, epoch=1)
    storage.write(rows)

    assert list(storage.read()) == rows
    assert list(storage.read(job_id="j1", limit=4001)) == rows[:4001]
    storage.close()


@pytest.mark.parametrize(
    ("events", "job_seqs"),
    [
        ([cancelled("j1"), cancelled("j1")], [1, 2]),
        ([placed("j1", 1), placed("j1", 1)], [1, 2]),
        ([submitted("j1", key="k"), submitted("j2", key="k")], [1, 1]),
        ([progress("j1", 1), progress("j1", 2)], [1, 1]),
    ],
    ids=["two ends of a job", "two placements of an attempt", "two uses of a key", "two events in one place of a job"],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["in one write", "in two"])
def test_what_may_be_only_once_is_refused_and_nothing_of_it_written(storage_again, events, job_seqs, at_once):
    storage = storage_again()
    rows = chain(events, storage.open().end, epoch=1, job_seqs=job_seqs)
    kept = [] if at_once else rows[:1]
    if kept:
        storage.write(kept)

    with pytest.raises(LogViolatedError):
        storage.write(rows[len(kept) :])

    assert list(storage.read()) == kept
    end = kept[-1].mark if kept else START
    storage.write(chain([progress("j9", 1)], end, epoch=1))  # and it can be written to as before
    storage.close()


def test_what_may_be_twice_is_accepted(storage_again):
    storage = storage_again()
    events = [submitted("j1"), submitted("j2"), placed("j1", 1), placed("j1", 2), placed("j2", 1), cancelled("j1")]

    storage.write(chain([*events, cancelled("j2")], storage.open().end, epoch=1))

    assert len(list(storage.read())) == len(events) + 1
    storage.close()


def test_a_storage_that_is_not_open_writes_nothing(storage_again):
    with pytest.raises(LogRefusedError):
        storage_again().write(chain([submitted("j1")], START, epoch=1))
