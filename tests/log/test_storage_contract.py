"""What every storage must do, whatever it is made of."""

import pytest

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.beside import Owner
from ftactors.log.errors import LogTakenError, LogViolatedError
from ftactors.log.rows import START, Head
from ftactors.log.verify import verified
from tests.log.examples import cancelled, chain, placed, progress, submitted


def test_a_new_log_is_empty_and_in_its_first_epoch(storage_again):
    storage = storage_again()

    assert storage.open() == Head(end=START, epoch=1)
    assert list(storage.read()) == []
    storage.close()


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
    with pytest.raises(LogRefusedError, match="is not open"):
        storage_again().write(chain([submitted("j1")], START, epoch=1))


HARD = [
    "",
    "NULL",
    "{}",
    "%s %(x)s ?",
    "a'b",
    'a"b',
    "a\\b",
    "\\x00",
    "\n\r\t\x01",
    "ü €",
    "\N{PILE OF POO}",
    "\ufeff\ufffe",
]


def test_every_character_comes_back_as_it_was(storage_again):
    storage = storage_again()
    events = [submitted(f"j{hard}", key=hard, filler=f"{hard}\0") for hard in HARD]
    rows = chain(events, storage.open().end, epoch=1)

    storage.write(rows)

    assert list(storage.read()) == rows
    assert [row for hard in HARD for row in storage.read(job_id=f"j{hard}")] == rows
    storage.close()


@pytest.mark.parametrize("at", [0.1, 1e-300, 1.7976931348623157e308, 1754000000.1234567, 2**53 + 2.0])
def test_every_time_comes_back_with_all_its_bits(storage_again, at):
    storage = storage_again()
    row = chain([submitted("j1")], storage.open().end, epoch=1)[0]._replace(at=at)

    storage.write([row])

    assert [found.at.hex() for found in storage.read()] == [at.hex()]
    storage.close()


def test_a_full_disk_writes_nothing_and_once_there_is_room_writing_goes_on(storage_again, full):
    storage = storage_again()
    first = chain([submitted("j1")], storage.open().end, epoch=1)
    storage.write(first)
    large = chain([submitted("j2", filler="x" * 50_000)], first[-1].mark, epoch=1)

    with full(storage):
        with pytest.raises(LogFullError, match=r"is full|has room for 0 more"):
            storage.write(large)
        assert list(storage.read()) == first

    assert storage.refill()
    storage.write(large)
    assert list(storage.read()) == first + large
    storage.close()


def test_one_who_looks_sees_what_is_there_and_takes_nothing(storage_again):
    storage = storage_again()
    rows = chain([submitted("j1"), progress("j1", 1)], storage.open().end, epoch=1)
    storage.write(rows)
    storage.close()

    for _ in range(2):
        looking = storage_again()
        head = looking.look()
        assert (head.end, head.epoch) == (rows[-1].mark, 2)
        assert list(verified(looking.read(), head)) == rows
        with pytest.raises(LogRefusedError, match=r"is not open for writing|for reading alone"):
            looking.write(chain([progress("j1", 2)], head.end, epoch=2))
        looking.close()

    later = storage_again()
    assert (later.open().epoch, len(list(later.read()))) == (2, 2)
    later.close()


def test_where_there_is_no_log_looking_finds_none_and_makes_none(storage_again):
    for _ in range(2):
        storage = storage_again()
        assert storage.look() is None
        storage.close()


def test_an_owner_that_goes_on_after_a_restart_has_the_log_as_before(storage_again):
    for epoch in (1, 2, 3):
        storage = storage_again(Owner("s1"))
        assert storage.open().epoch == epoch
        storage.close()


def test_an_owner_that_comes_back_after_another_took_the_log_is_refused_and_changes_nothing(storage_again):
    for owner in (Owner("s1"), Owner("s2")):
        storage = storage_again(owner)
        storage.open()
        storage.close()

    for _ in range(2):
        with pytest.raises(LogTakenError, match=r"was taken by pid \d+ on host .* \(epoch 2, event 0\) since"):
            storage_again(Owner("s1")).open()

    storage = storage_again(Owner("s2"))
    assert storage.open().epoch == 3
    storage.close()


@pytest.mark.parametrize("before", [[], [Owner()], [Owner("s2"), Owner()]], ids=["nobody", "no scheduler", "both"])
def test_an_owner_that_never_had_the_log_takes_it_though_it_was_started_again(storage_again, before):
    for owner in before:
        storage = storage_again(owner)
        storage.open()
        storage.close()

    storage = storage_again(Owner("s1"))

    assert storage.open().epoch == len(before) + 1
    storage.close()


def test_a_new_owner_takes_the_log_whoever_had_it(storage_again):
    for epoch, name in ((1, "s1"), (2, "s2"), (3, "s3")):
        storage = storage_again(Owner(name))
        assert storage.open().epoch == epoch
        storage.close()


def test_a_log_that_was_not_given_back_is_not_taken_from_another_namespace_of_the_same_cluster(storage_again):
    killed = storage_again(Owner("s1", "c1", "team-a"))
    rows = chain([submitted("j1")], killed.open().end, epoch=1)
    killed.write(rows)
    killed.close()
    wrong = storage_again(Owner("s2", "c1", "team-b"))

    with pytest.raises(LogRefusedError, match="of a service in namespace 'team-a' of this cluster"):
        wrong.open()
    again = storage_again(Owner("s3", "c1", "team-a"))
    assert again.open().epoch == 2  # the refused one took nothing
    again.give_back()
    again.close()
    moved = storage_again(Owner("s4", "c1", "team-b"))
    assert moved.open().epoch == 3
    moved.close()


def test_a_log_that_was_not_given_back_is_taken_from_any_namespace_of_another_cluster(storage_again):
    for epoch, owner in ((1, Owner("s1", "c1", "team-a")), (2, Owner("s2", "c2", "team-b"))):
        storage = storage_again(owner)
        assert storage.open().epoch == epoch
        storage.close()


@pytest.mark.parametrize("kind", ["memory", "postgresql"], indirect=True)
def test_who_lost_the_log_gives_back_nothing(storage_again):
    old, new = storage_again(Owner("s1", "c1", "team-a")), storage_again(Owner("s2", "c1", "team-a"))
    old.open()
    new.open()

    old.give_back()
    old.close()

    with pytest.raises(LogRefusedError, match="of a service in namespace 'team-a' of this cluster"):
        storage_again(Owner("s3", "c1", "team-b")).open()
    new.close()


def test_who_only_looked_at_a_log_gives_back_nothing(storage_again):
    for begin in ("open", "look"):
        storage = storage_again(Owner("s1", "c1", "team-a"))
        getattr(storage, begin)()
        if begin == "look":
            storage.give_back()
        storage.close()

    with pytest.raises(LogRefusedError, match="of a service in namespace 'team-a' of this cluster"):
        storage_again(Owner("s2", "c1", "team-b")).open()


@pytest.mark.parametrize("kind", ["memory", "postgresql"], indirect=True)
def test_who_lost_the_log_to_another_writes_nothing_and_is_told_by_whom(storage_again):
    old, new = storage_again(Owner("s1")), storage_again(Owner("s2"))
    rows = chain([submitted("j1"), submitted("j2")], old.open().end, epoch=1)
    old.write(rows[:1])
    new.open()

    for _ in range(2):
        with pytest.raises(
            LogTakenError, match=r"taken by pid \d+ on .* \(epoch 2, event 1\); this is .* \(epoch 1, event 1"
        ):
            old.write(rows[1:])

    assert list(old.read()) == list(new.read()) == rows[:1]
    new.write(chain([submitted("j3")], rows[0].mark, epoch=2))
    with pytest.raises(LogTakenError, match=r"\(epoch 2, event 2\); this is .* \(epoch 1, event 1\)"):
        old.write(rows[1:])
    old.close()
    new.close()


@pytest.mark.parametrize("kind", ["memory", "postgresql"], indirect=True)
def test_an_owner_can_make_sure_that_nobody_else_has_taken_the_log(storage_again):
    old, new = storage_again(Owner("s1")), storage_again(Owner("s2"))
    rows = chain([submitted("j1")], old.open().end, epoch=1)
    old.confirm()
    old.write(rows)
    old.confirm()
    new.open()

    with pytest.raises(LogTakenError, match=r"taken by pid \d+ on .* \(epoch 2, event 1\)"):
        old.confirm()

    new.confirm()
    old.close()
    new.close()


def test_rows_that_do_not_follow_the_last_one_are_not_written(storage_again):
    storage = storage_again()
    rows = chain([submitted("j1"), submitted("j2"), submitted("j3")], storage.open().end, epoch=1)
    storage.write(rows[:1])

    for others in (rows[:1], rows[2:]):
        with pytest.raises(LogTakenError):
            storage.write(others)

    assert list(storage.read()) == rows[:1]
    storage.close()
