"""Flipped bits and cut files, at every 512 bytes: a log is read whole or refused by name, never shorter in silence.

The files are those of a scheduler that was killed: a database with a part of the events, a WAL with the rest, and the
witness of both.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.core.snapshot import frozen, thawed
from ftactors.core.state import State
from ftactors.log.errors import LogDamagedError
from ftactors.log.reader import Reader
from ftactors.log.rows import START, Row
from ftactors.log.snapshots import SnapshotFile
from ftactors.log.sqlite import SqliteStorage
from ftactors.log.verify import verified
from tests.core.histories import completed, opened, prepared, running, state_after, submitted
from tests.log.examples import chain, progress

STEP = 512
NAMES = ("events.db", "events.db-wal", "events.db.witness")
Damage = Callable[[bytes, int], bytes]


@dataclass(frozen=True)
class Killed:
    """What a killed scheduler left behind."""

    files: dict[str, bytes]
    rows: list[Row]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("killed")
    path = directory / "events.db"
    first = SqliteStorage(path)
    rows = chain([progress(f"j{step % 3}", step) for step in range(60)], first.open().end, epoch=1)
    first.write(rows)
    first.close()  # which brings the WAL into the database
    second = SqliteStorage(path)
    second.open()
    for step in range(60, 90, 5):
        rows += chain([progress(f"j{step % 3}", step + more) for more in range(5)], rows[-1].mark, epoch=2)
        second.write(rows[-5:])
    files = {name: (directory / name).read_bytes() for name in NAMES}  # as they are while the connection lives
    second.close()
    return Killed(files, rows)


def flipped(data: bytes, at: int) -> bytes:
    place = min(at + random.Random(at).randrange(STEP), len(data) - 1)
    bit = 1 << random.Random(at + 1).randrange(8)
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


def places(data: bytes) -> Iterator[int]:
    return iter(range(0, len(data), STEP))


def what_is_read(path: Path) -> list[Row] | str:
    """Return all rows of a log, or the name of the refusal."""
    storage = SqliteStorage(path)
    try:
        return list(verified(storage.read(), storage.open()))
    except LogRefusedError as error:
        return type(error).__name__
    finally:
        storage.close()


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_log_is_whole_or_refused(killed: Killed, tmp_path: Path, name: str, damage: Damage):
    answers: Counter[str] = Counter()
    for at in places(killed.files[name]):
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        (tmp_path / "log").mkdir()
        for other, data in killed.files.items():
            (tmp_path / "log" / other).write_bytes(damage(data, at) if other == name else data)

        read = what_is_read(tmp_path / "log" / "events.db")

        assert isinstance(read, str) or read == killed.rows, f"{name} at {at}: {len(read)} of {len(killed.rows)} events"
        answers[read if isinstance(read, str) else "whole"] += 1
    assert sum(answers.values()) == -(-len(killed.files[name]) // STEP)
    if name == "events.db.witness":  # a witness that cannot be read says nothing
        assert set(answers) == {"whole"}
    else:
        assert answers["LogDamagedError"] > 0


def test_an_undamaged_copy_is_read_whole(killed: Killed, tmp_path: Path):
    for name, data in killed.files.items():
        (tmp_path / name).write_bytes(data)

    assert what_is_read(tmp_path / "events.db") == killed.rows


def test_a_wal_that_is_gone_is_noticed_by_the_witness(killed: Killed, tmp_path: Path):
    for name in ("events.db", "events.db.witness"):
        (tmp_path / name).write_bytes(killed.files[name])

    assert what_is_read(tmp_path / "events.db") == "LogDamagedError"


@pytest.mark.parametrize("damage", [flipped, cut])
def test_a_damaged_snapshot_is_whole_or_not_used(tmp_path: Path, damage: Damage):
    state = state_after(
        *(event for number in range(40) for event in (submitted(f"job-{number}", new_model_id=f"m{number}"),)),
        submitted(),
        *prepared(),
        *running(),
        completed(),
    )
    path = tmp_path / "events.db.snapshot"
    rows = chain([opened()], START, epoch=1)
    SnapshotFile(path).save(rows[0].mark, frozen(state))
    sound = path.read_bytes()

    for at in places(sound):
        path.write_bytes(damage(sound, at))
        assert SnapshotFile(path).load() is None, at
    path.write_bytes(sound)
    loaded = SnapshotFile(path).load()
    assert loaded is not None
    assert _parts(thawed(loaded[1])) == _parts(state)


def _parts(state: State) -> tuple[object, ...]:
    return state.jobs, state.finished, state.models, state.seq


def test_reading_back_what_was_flipped_in_a_payload_names_its_event(killed: Killed, tmp_path: Path):
    data = killed.files["events.db"]
    place = data.index(b'"step":30')
    for name, content in killed.files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "events.db").write_bytes(data[: place + 7] + b"9" + data[place + 8 :])
    storage = SqliteStorage(tmp_path / "events.db")
    head, reader, sound = storage.open(), Reader(), []

    with pytest.raises(LogRefusedError, match="event 31 is not what was written"):
        sound.extend(reader.recorded(row) for row in verified(storage.read(), head))

    assert [recorded.seq for recorded in sound] == [*range(1, 31)]
    storage.close()


def test_of_a_page_that_cannot_be_read_whole_the_sound_rows_are_given(tmp_path: Path):
    path = tmp_path / "events.db"
    storage = SqliteStorage(path)
    rows = chain([progress("j1", step) for step in range(400)], storage.open().end, epoch=1)
    storage.write(rows)
    storage.close()
    data = bytearray(path.read_bytes())
    place = data.rindex(b'"step":390')  # a page near the end of the table
    page = place // 4096 * 4096
    data[page : page + 8] = b"\xff" * 8
    path.write_bytes(data)
    broken = SqliteStorage(path)
    sound: list[Row] = []

    with pytest.raises(LogDamagedError) as caught:
        sound.extend(verified(broken.read(), broken.open()))
    broken.close()

    assert len(sound) > 300
    assert sound == rows[: len(sound)]
    assert caught.value.seq == len(sound) + 1
