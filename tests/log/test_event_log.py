import asyncio
import threading
from collections.abc import Sequence

import pytest

from ftactors.core.errors import LogError, LogFullError, LogRefusedError
from ftactors.core.events import Recorded
from ftactors.log.errors import LogDamagedError, LogViolatedError, OutcomeUnknownError
from ftactors.log.log import EventLog
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.log.rows import Row
from tests.log.examples import Owner, cancelled, progress, submitted


class Gated(MemoryStorage):
    """Holds each write back until the gate is opened, and counts the writes."""

    def __init__(self, disk: MemoryDisk) -> None:
        super().__init__(disk)
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.groups: list[int] = []

    def write(self, rows: Sequence[Row]) -> None:
        self.begun.set()
        assert self.gate.wait(timeout=30)
        self.groups.append(len(rows))
        super().write(rows)


class Breaking(MemoryStorage):
    """Fails in the commit: the rows may be there or not."""

    writes = 0

    def write(self, rows: Sequence[Row]) -> None:
        self.writes += 1
        raise OutcomeUnknownError(f"the connection was lost while {len(rows)} rows were committed")


class GivenBack(MemoryStorage):
    """Counts how often it is given back."""

    times = 0

    def give_back(self) -> None:
        self.times += 1
        super().give_back()


async def held_in_a_write(owner: Owner, storage: Gated) -> None:
    """Return when the writer thread is in the middle of a write."""
    assert await asyncio.to_thread(storage.begun.wait, 30)


async def test_what_is_durable_is_there_for_the_next_owner(storage_again):
    owner = Owner(storage_again())
    for step in range(3):
        seq = owner.record(progress("j1", step))
    await owner.log.durable(seq)
    assert owner.log.durable_seq == 3
    await owner.log.close()

    later = Owner(storage_again())

    assert later.state == owner.state
    assert (later.log.seq, later.log.epoch, owner.log.epoch) == (3, 2, 1)
    await later.log.close()


async def test_a_thousand_concurrent_waits_are_all_answered(storage_again):
    owner = Owner(storage_again())

    async def client(number: int) -> int:
        seq = owner.record(submitted(f"j{number}"))
        await owner.log.durable(seq)
        assert owner.log.durable_seq >= seq
        return seq

    seqs = await asyncio.gather(*(client(number) for number in range(1000)))

    assert sorted(seqs) == list(range(1, 1001))
    assert await owner.log.read() == owner.state
    await owner.log.close()


async def test_events_of_one_step_are_one_transaction_and_so_are_those_that_had_to_wait():
    storage = Gated(MemoryDisk())
    owner = Owner(storage)
    owner.record(submitted("j1"))
    owner.record(submitted("j2"))
    await held_in_a_write(owner, storage)
    for step in range(5):
        seq = owner.record(progress("j1", step))

    storage.gate.set()
    await owner.log.durable(seq)

    assert storage.groups == [2, 5]
    await owner.log.close()


async def test_many_may_wait_for_one_event_and_one_that_leaves_disturbs_neither_it_nor_them():
    storage = Gated(MemoryDisk())
    owner = Owner(storage)
    seq = owner.record(submitted("j1"))
    waits = [asyncio.ensure_future(owner.log.durable(seq)) for _ in range(3)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waits[0], timeout=0)
    assert not waits[1].done()

    storage.gate.set()
    await asyncio.gather(*waits[1:])

    assert waits[0].cancelled()
    assert len(storage.disk.rows) == 1
    await owner.log.close()


async def test_closing_brings_what_was_appended_to_the_disk(storage_again):
    owner = Owner(storage_again())
    owner.record(submitted("j1"))
    await owner.log.close()

    later = Owner(storage_again())

    assert later.state == owner.state
    await later.log.close()
    with pytest.raises(LogRefusedError, match="the log is closed"):
        later.record(submitted("j2"))


async def test_whether_the_log_is_given_back_is_asked_once_it_is_known_what_is_on_disk():
    disk = MemoryDisk(room=1)
    owner = Owner(GivenBack(disk))
    owner.record(submitted("j1"))
    await owner.log.durable(1)
    owner.record(submitted("j2"))
    known: list[int] = []

    await owner.log.close(give_back=lambda: known.append(len(owner.state)) or True)

    assert known == [1]  # the other did not fit, and was undone
    assert owner.log._storage.times == 1


async def test_a_log_is_not_given_back_where_that_is_denied_or_nothing_could_be_appended():
    disk = MemoryDisk()
    kept, refused, taken = GivenBack(disk), GivenBack(disk), GivenBack(disk)
    await Owner(kept).log.close(give_back=lambda: False)
    log = EventLog(refused, on_undone=print, on_fatal=print)
    log.open()
    await log.close(give_back=lambda: True)  # it is not replayed
    loser, owner = Owner(taken), Owner(MemoryStorage(disk))
    loser.record(submitted("j1"))
    await loser.log.close(give_back=lambda: True)

    assert [kept.times, refused.times, taken.times] == [0, 0, 0]
    await owner.log.close()


async def test_what_was_not_committed_before_a_crash_is_gone_and_what_was_is_there():
    disk = MemoryDisk()
    storage = Gated(disk)
    owner = Owner(storage)
    storage.gate.set()
    await owner.log.durable(owner.record(submitted("j1")))
    owner.record(submitted("j2"))  # the owner ends here, before its writer does anything

    assert Owner(MemoryStorage(disk)).state == owner.state[:1]


async def test_a_full_disk_undoes_the_group_and_all_that_was_appended_behind_it():
    storage = Gated(MemoryDisk(room=1))
    owner = Owner(storage)
    kept = owner.record(submitted("j1"))
    first_wait = owner.log.durable(kept)
    await held_in_a_write(owner, storage)
    in_the_group = [owner.log.durable(owner.record(submitted(f"j{number}"))) for number in (2, 3)]
    storage.gate.set()
    await first_wait
    behind = owner.log.durable(owner.record(submitted("j4")))

    outcomes = await asyncio.gather(*in_the_group, behind, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [LogFullError] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert owner.undone == [2]
    assert [recorded.event.job_id for recorded in owner.state] == ["j1"]
    assert owner.log.seq == owner.log.durable_seq == kept
    await owner.log.close()


async def test_once_there_is_room_again_the_undone_numbers_are_given_to_other_events(storage_again, full):
    owner = Owner(storage_again())
    await owner.log.durable(owner.record(submitted("j1")))
    with full(owner.log._storage), pytest.raises(LogFullError):
        await owner.log.durable(owner.record(submitted("j2", filler="x" * 50_000)))

    assert owner.record(submitted("j3")) == 2
    await owner.log.durable(2)
    await owner.log.close()

    later = Owner(storage_again())
    assert [recorded.event.job_id for recorded in later.state] == ["j1", "j3"]
    await later.log.close()


async def test_an_owner_that_lost_the_log_undoes_what_is_not_on_disk_and_appends_no_more():
    disk = MemoryDisk()
    old = Owner(MemoryStorage(disk))
    await old.log.durable(old.record(submitted("j1")))
    new = Owner(MemoryStorage(disk))

    with pytest.raises(LogRefusedError, match=r"taken by pid \d+ on host .* \(epoch 2, event 1\)"):
        await old.log.durable(old.record(submitted("j2")))

    assert (old.undone, old.fatal, len(old.state)) == ([2], [], 1)
    with pytest.raises(LogRefusedError, match="taken by"):
        old.record(submitted("j3"))
    assert await old.log.read() == old.state  # what it knew can still be read
    await new.log.durable(new.record(submitted("j4")))
    assert [row.job_id for row in disk.rows] == ["j1", "j4"]


async def test_an_unknown_outcome_is_fatal_and_nobody_is_told_that_the_event_was_kept_or_undone():
    owner = Owner(Breaking())
    told_after: list[int] = []
    wait = owner.log.durable(owner.record(submitted("j1")))
    wait.add_done_callback(lambda _: told_after.append(len(owner.fatal)))

    with pytest.raises(LogRefusedError, match=r"must be opened anew.*the connection was lost"):
        await wait

    assert [type(error) for error in owner.fatal] == [OutcomeUnknownError]
    assert told_after == [1]
    assert owner.undone == []
    with pytest.raises(LogRefusedError, match="must be opened anew"):
        owner.record(submitted("j2"))


async def test_nothing_is_written_after_an_unknown_outcome_whoever_appends_meanwhile():
    storage = Breaking()
    owner = Owner(storage)
    owner.record(submitted("j1"))
    await asyncio.sleep(0)  # the drain takes the first event, and has it written

    while not owner.fatal:
        owner.record(progress("j1", owner.log.seq))
        await asyncio.sleep(0)

    assert storage.writes == 1
    assert [type(error) for error in owner.fatal] == [OutcomeUnknownError]
    await owner.log.close()


async def test_a_violated_index_is_fatal_for_memory_has_checked_before(storage_again):
    owner = Owner(storage_again())
    owner.record(cancelled("j1"))

    with pytest.raises(LogRefusedError):
        await owner.log.durable(owner.record(cancelled("j1")))

    assert [type(error) for error in owner.fatal] == [LogViolatedError]
    await owner.log.close()


async def test_an_owner_that_cannot_undo_is_a_fatal_end():
    def cannot_undo(from_seq: int) -> None:
        raise KeyError(from_seq)

    fatal: list[BaseException] = []
    log = EventLog(MemoryStorage(MemoryDisk(room=0)), on_undone=cannot_undo, on_fatal=fatal.append)
    log.open()
    assert list(log.replay()) == []
    log.append(Recorded(seq=1, at=1.0, epoch=1, event=submitted("j1"), job_seq=1))

    with pytest.raises(LogRefusedError, match="must be opened anew"):
        await log.durable(1)

    assert [type(error) for error in fatal] == [KeyError]


@pytest.mark.parametrize(("seq", "epoch"), [(1, 1), (3, 1), (2, 2)])
async def test_an_event_that_is_not_the_next_of_this_epoch_is_refused(seq, epoch):
    owner = Owner(MemoryStorage())
    owner.record(submitted("j1"))

    with pytest.raises(LogError, match=f"event {seq} of epoch {epoch} cannot.*the next one is event 2 of epoch 1"):
        owner.log.append(Recorded(seq=seq, at=1.0, epoch=epoch, event=submitted("j2"), job_seq=1))

    assert owner.record(submitted("j2")) == 2


async def test_an_event_that_cannot_be_stored_leaves_the_log_as_it_was():
    owner = Owner(MemoryStorage())

    with pytest.raises(LogError, match="cannot be stored"):
        owner.record(submitted("j1", filler="\udcff"))

    await owner.log.durable(owner.record(submitted("j1")))
    assert len(owner.state) == 1


async def test_nothing_can_be_appended_before_all_is_replayed(storage_again):
    owner = Owner(storage_again())
    for number in range(2):
        owner.record(submitted(f"j{number}"))
    await owner.log.close()
    log = EventLog(storage_again(), on_undone=print, on_fatal=print)

    log.open()
    events = log.replay()
    next(events)

    with pytest.raises(LogRefusedError, match="not yet replayed"):
        log.append(Recorded(seq=3, at=1.0, epoch=2, event=submitted("j3"), job_seq=1))
    assert len(list(events)) == 1
    log.append(Recorded(seq=3, at=1.0, epoch=2, event=submitted("j3"), job_seq=1))
    await log.durable(3)
    await log.close()


async def test_a_damaged_log_is_read_up_to_the_damage_and_takes_nothing_more():
    disk = MemoryDisk()
    owner = Owner(MemoryStorage(disk))
    for number in range(4):
        seq = owner.record(submitted(f"j{number}"))
    await owner.log.durable(seq)
    disk.rows[2] = disk.rows[2]._replace(at=0.5)
    log = EventLog(MemoryStorage(disk), on_undone=print, on_fatal=print)
    sound: list[Recorded] = []
    log.open()

    with pytest.raises(LogDamagedError) as caught:
        sound.extend(recorded for recorded, _ in log.replay())

    assert (sound, caught.value.seq) == (owner.state[:2], 3)
    with pytest.raises(LogDamagedError, match="event 3 is not what was written"):
        log.append(Recorded(seq=3, at=1.0, epoch=2, event=submitted("j3"), job_seq=1))


async def test_an_event_that_was_never_appended_is_not_waited_for():
    owner = Owner(MemoryStorage())
    owner.record(submitted("j1"))

    with pytest.raises(LogError, match="there is no event 2; the newest is event 1"):
        await owner.log.durable(2)


async def test_the_events_of_one_job_are_read_from_storage(storage_again):
    owner = Owner(storage_again())
    for step in range(10):
        seq = owner.record(progress(f"j{step % 2}", step))
    await owner.log.durable(seq)

    assert await owner.log.read(job_id="j1") == owner.state[1::2]
    assert await owner.log.read(job_id="j1", after=4, limit=2) == [owner.state[5], owner.state[7]]
    await owner.log.close()
