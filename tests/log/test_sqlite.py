import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftactors.core.errors import LogFullError, LogRefusedError
from ftactors.log.errors import LogDamagedError, OutcomeUnknownError
from ftactors.log.rows import Head, Mark, Row
from ftactors.log.sqlite import SqliteStorage
from ftactors.log.urls import storage_at
from ftactors.log.verify import verified
from tests.log.examples import chain, progress, submitted

ROOT = Path(__file__).parents[2]
FILES = ("events.db", "events.db-wal", "events.db.owner", "events.db.reserve", "events.db.witness")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "events.db"


def write(path: Path, events: int = 5) -> list[Row]:
    """Write events to a new log, close it, and return its rows."""
    storage = SqliteStorage(path)
    rows = chain([progress("j1", step) for step in range(events)], storage.open().end, epoch=1)
    for row in rows:
        storage.write([row])
    storage.close()
    return rows


def replay(path: Path) -> list[Row]:
    storage = SqliteStorage(path)
    try:
        head = storage.open()
        return list(verified(storage.read(), head))
    finally:
        storage.close()


@contextmanager
def appending(path: Path, acknowledged: int, clients: int = 8) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a process that appends, and give it with what it has acknowledged so far; in the end it is killed."""
    command = [sys.executable, "-m", "tests.log.appender", str(path), str(clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            seqs = [int(process.stdout.readline()) for _ in range(acknowledged)]
            yield process, seqs
        finally:
            process.kill()


def test_every_acknowledged_event_is_there_after_a_kill_in_the_middle_of_appending(path):
    with appending(path, acknowledged=400) as (process, seqs):
        process.send_signal(signal.SIGKILL)
        seqs += [int(line) for line in process.stdout if line.endswith("\n")]

    rows = replay(path)

    assert len(seqs) >= 400
    assert max(seqs) <= len(rows) <= max(seqs) + 8


def test_a_second_opener_is_refused_and_told_who_holds_the_log(path):
    with appending(path, acknowledged=1) as (holder, _), pytest.raises(LogRefusedError) as caught:
        SqliteStorage(path).open()

    assert f"the log {path} is held by pid {holder.pid} on host" in str(caught.value)
    assert f"this is pid {os.getpid()}" in str(caught.value)


def test_a_second_opener_that_waits_gets_the_log_when_the_first_one_closes(path):
    first, second = SqliteStorage(path), SqliteStorage(path, timeout_s=30)
    first.open()
    with ThreadPoolExecutor(1) as elsewhere:
        opening = elsewhere.submit(second.open)
        with pytest.raises(LogRefusedError, match="is held by"):
            SqliteStorage(path, timeout_s=0.05).open()
        assert not opening.done()

        first.close()

        assert opening.result().epoch == 2
    second.close()


def test_nobody_else_can_read_the_file_while_it_is_open(path):
    storage = SqliteStorage(path)
    storage.open()

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(path, timeout=0).execute("SELECT * FROM events")
    storage.close()


def test_directories_are_made_and_only_the_owner_may_read_the_files(tmp_path):
    storage = SqliteStorage(tmp_path / "var" / "lib" / "events.db")
    storage.write(chain([submitted("j1")], storage.open().end, epoch=1))

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "var" / "lib").iterdir()}

    assert modes == dict.fromkeys(FILES, 0o600)
    storage.close()


def test_each_commit_is_synced(path):
    storage = SqliteStorage(path)
    storage.open()
    connection = storage._connection.connection.driver_connection

    settings = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}

    assert settings == {"journal_mode": "wal", "synchronous": 2}
    storage.close()


def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(LogRefusedError, match=r"file/events\.db cannot be created"):
        SqliteStorage(tmp_path / "file" / "events.db").open()


def test_a_file_that_is_no_database_is_refused_by_name(path):
    path.write_bytes(b"not a database at all " * 100)

    with pytest.raises(LogRefusedError, match=r"events\.db cannot be opened: file is not a database"):
        SqliteStorage(path).open()


def test_tables_of_a_newer_format_are_refused(path):
    write(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE head SET format = 7")
    connection.close()

    with pytest.raises(
        LogRefusedError, match=r"format 7, and this version .* knows formats up to 1: use ftactors 0\.1\.0"
    ):
        SqliteStorage(path).open()


def test_one_flipped_bit_in_a_row_is_refused_with_its_seq(path):
    rows = write(path)
    content = bytearray(path.read_bytes())
    content[content.index(rows[2].payload.encode()) + 40] ^= 0b100
    path.write_bytes(content)

    with pytest.raises(LogDamagedError) as caught:
        replay(path)

    assert caught.value.seq == 3


@pytest.mark.parametrize("column", ["epoch", "seq", "hash"])
@pytest.mark.parametrize("value", [None, 0, "text", b"bytes"])
def test_a_damaged_head_is_refused(path, column, value):
    write(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = on")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'head'")
    connection.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE head SET {column} = ?", [value])  # noqa: S608
    connection.close()

    with pytest.raises(LogDamagedError):
        replay(path)


def test_a_flipped_bit_in_the_wal_that_takes_committed_rows_along_is_noticed(path):
    with appending(path, acknowledged=60, clients=1) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
    wal = path.with_name("events.db-wal")
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 1
    wal.write_bytes(content)

    with pytest.raises(LogDamagedError, match="are lost: they were committed"):
        replay(path)
    with pytest.raises(LogDamagedError, match="are lost: they were committed"):
        replay(path)  # a refused opening changes nothing


def test_an_older_copy_put_back_is_refused_until_its_witness_is_deleted(path, tmp_path):
    rows = write(path, events=3)
    shutil.copy(path, tmp_path / "backup.db")
    storage = SqliteStorage(path)
    storage.write(chain([progress("j1", 3), progress("j1", 4)], storage.open().end, epoch=2))
    storage.close()
    shutil.copy(tmp_path / "backup.db", path)

    with pytest.raises(LogDamagedError, match="events 4 to 5 are lost") as caught:
        replay(path)

    assert caught.value.seq == 4
    path.with_name("events.db.witness").unlink()
    assert replay(path) == rows


@pytest.mark.parametrize("content", [b"", b"\0" * 102, b"nonsense"])
def test_a_witness_that_a_power_cut_left_unreadable_is_no_reason_to_refuse(path, content):
    rows = write(path)
    path.with_name("events.db.witness").write_bytes(content)

    assert replay(path) == rows


def test_the_witness_remembers_the_last_commit(path):
    rows = write(path)
    storage = SqliteStorage(path)

    assert storage.open() == Head(end=rows[-1].mark, epoch=2, witness=Mark(*rows[-1].mark))
    storage.close()


def test_a_full_disk_rolls_the_write_back_and_works_again_once_there_is_room(path):
    storage = SqliteStorage(path)
    first = chain([submitted("j1")], storage.open().end, epoch=1)
    storage.write(first)
    driver = storage._connection.connection.driver_connection
    driver.execute("PRAGMA max_page_count = 1")  # means: not one page more than there are now
    large = chain([submitted("j2", filler="x" * 20_000)], first[-1].mark, epoch=1)

    with pytest.raises(LogFullError, match=rf"the disk of the log {path} is full"):
        storage.write(large)

    assert list(storage.read()) == first
    driver.execute("PRAGMA max_page_count = 100000")
    storage.write(large)
    storage.close()
    assert replay(path) == first + large


def test_an_error_of_the_disk_in_a_commit_leaves_the_outcome_unknown_until_the_log_is_opened_again(path):
    storage = SqliteStorage(path)
    first = chain([submitted("j1")], storage.open().end, epoch=1)
    storage.write(first)
    wal_bytes = path.with_name("events.db-wal").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal_bytes, limits[1]))  # to write on gives EFBIG, an I/O error
    try:
        with pytest.raises(OutcomeUnknownError, match="failed while events 2 to 2 were committed: disk I/O error"):
            storage.write(chain([submitted("j2")], first[-1].mark, epoch=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    storage.close()

    assert replay(path) == first


def test_a_url_names_the_file(tmp_path):
    storage = storage_at(f"sqlite:///{tmp_path}/events.db")

    assert storage.open().epoch == 1
    assert (tmp_path / "events.db").exists()
    storage.close()


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b"])
def test_a_url_names_the_file_as_it_is(tmp_path, name):
    storage = storage_at(f"sqlite:///{tmp_path / name}/events.db")

    storage.open()
    storage.close()

    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "url", ["events.db", "sqlite://", "sqlite:///events.db", "sqlite:///:memory:", "mysql://ada:secret@db/events"]
)
def test_a_url_that_cannot_hold_the_log_is_refused_without_its_password(url):
    with pytest.raises(LogRefusedError, match="sqlite:///PATH") as caught:
        storage_at(url)

    assert "secret" not in str(caught.value)


def test_looking_at_the_log_of_a_killed_process_changes_no_byte_of_it(path):
    script = (
        "import os, sys; from ftactors.log.sqlite import SqliteStorage; from tests.log.examples import *\n"
        "storage = SqliteStorage(sys.argv[1]); end = storage.open().end\n"
        "storage.write(chain([progress('j1', step) for step in range(9)], end, epoch=1)); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, env={**os.environ, "PYTHONPATH": "."})
    files = [path, path.with_name("events.db-wal"), path.with_name("events.db.witness")]
    before = [file.read_bytes() for file in files]
    storage = SqliteStorage(path)
    head = storage.look()
    rows = list(storage.read())
    storage.close()

    assert head is not None
    assert (head.end.seq, len(rows)) == (9, 9)
    assert [file.read_bytes() for file in files] == before


def test_opening_a_log_that_has_lost_rows_leaves_what_may_be_saved_of_them(path):
    storage = SqliteStorage(path)
    rows = chain([progress("j1", step) for step in range(9)], storage.open().end, epoch=1)
    for row in rows:
        storage.write([row])
    files = {name: path.with_name(name).read_bytes() for name in ("events.db", "events.db-wal", "events.db.witness")}
    storage.close()
    wal = bytearray(files["events.db-wal"])
    wal[len(wal) // 2] ^= 1  # all frames behind it count no more
    for name, data in (files | {"events.db-wal": bytes(wal)}).items():
        path.with_name(name).write_bytes(data)
    opened = SqliteStorage(path)
    head = opened.open()

    assert head.witness is not None
    assert head.end.seq < head.witness.seq == 9
    with pytest.raises(LogRefusedError):
        opened.write(chain([progress("j1", 9)], head.end, epoch=head.epoch))
    opened.close()
    assert path.with_name("events.db-wal").read_bytes() == bytes(wal)


@pytest.mark.parametrize("left", [None, b""], ids=["gone", "empty"])
def test_a_database_that_is_lost_is_not_taken_for_one_that_never_was(path, left):
    storage = SqliteStorage(path)
    storage.write(chain([progress("j1", 1)], storage.open().end, epoch=1))
    storage.close()
    path.unlink()
    if left is not None:
        path.write_bytes(left)

    for use in (SqliteStorage.look, SqliteStorage.open):
        with pytest.raises(LogDamagedError, match=r"is gone: .* the witness beside it knows of event 1"):
            use(SqliteStorage(path))
    assert path.exists() is (left is not None)
    path.with_name("events.db.witness").unlink()
    begun = SqliteStorage(path)
    assert begun.open().epoch == 1
    begun.close()


def test_a_file_that_is_no_database_any_more_is_damage(path):
    path.write_bytes(b"garbage" * 2000)

    for use in (SqliteStorage.look, SqliteStorage.open):
        with pytest.raises(LogDamagedError, match="cannot be opened"):
            use(SqliteStorage(path))
