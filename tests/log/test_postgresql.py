import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ftactors.core.errors import LogRefusedError
from ftactors.log import postgresql
from ftactors.log.beside import Owner
from ftactors.log.errors import LogTakenError, OutcomeUnknownError
from ftactors.log.protocol import Storage
from ftactors.log.rows import START, Head, Mark, Row
from ftactors.log.urls import storage_at
from ftactors.log.verify import verified
from tests.log.examples import chain, progress, submitted
from tests.log.wire import Cut, wire_to
from tests.postgres import PASSWORD, PostgresServer

ROOT = Path(__file__).parents[2]


@contextmanager
def opened(url: str, owner: Owner | None = None) -> Iterator[Storage]:
    storage = storage_at(url, owner=owner)
    storage.open()
    try:
        yield storage
    finally:
        storage.close()


def stored(url: str) -> list[Row]:
    storage = storage_at(url)
    try:
        head = storage.look()
        return list(verified(storage.read(), head))
    finally:
        storage.close()


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


# ------------------------------------------------------------------------------------------------ what would be unsafe


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("synchronous_commit", "off", "set synchronous_commit = on for the server, the database or the user"),
        ("default_transaction_read_only", "on", "set default_transaction_read_only = off"),
    ],
)
def test_a_database_that_does_not_keep_what_is_committed_is_refused_by_name(
    postgres, postgres_url, setting, value, remedy
):
    database = database_of(postgres_url)
    postgres.admin(f"ALTER DATABASE {database} SET {setting} = {value}")
    try:
        with pytest.raises(LogRefusedError) as caught:
            storage_at(postgres_url).open()
    finally:
        postgres.admin(f"ALTER DATABASE {database} RESET {setting}")

    assert f"the log in database '{database}' on 127.0.0.1:{postgres.port} would not be kept" in str(caught.value)
    assert remedy in str(caught.value)
    with opened(postgres_url) as storage:  # once it is set right
        assert list(storage.read()) == []


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_could_lose_commits_is_refused_by_name(postgres, postgres_url, setting):
    with postgres.configured(**{setting: "off"}), pytest.raises(LogRefusedError, match=f"{setting} is 'off'"):
        storage_at(postgres_url).open()


def test_a_database_of_another_encoding_is_refused(postgres):
    with (
        postgres.database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0") as database,
        pytest.raises(LogRefusedError, match=r"encoding is 'LATIN1' \(create the database with ENCODING 'UTF8'"),
    ):
        storage_at(postgres.url(database)).open()


def test_a_standby_is_refused_and_can_be_looked_at(postgres, postgres_url):
    with opened(postgres_url) as storage:
        storage.write(chain([submitted("j1")], START, epoch=1))

    with postgres.as_standby():
        with pytest.raises(LogRefusedError, match=r"standby is 'true' \(name its primary instead"):
            storage_at(postgres_url).open()
        assert len(stored(postgres_url)) == 1


def test_what_was_found_safe_stays_so_while_the_log_is_open(postgres, postgres_url):
    with (
        opened(postgres_url) as storage,
        postgres.connect() as another_that_is_open,
        postgres.configured(synchronous_commit="off"),
    ):
        until(lambda: another_that_is_open.execute("SHOW synchronous_commit").fetchone() == ("off",))

        assert storage._driver.execute("SHOW synchronous_commit").fetchone() == ("on",)


# ---------------------------------------------------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url, _: f"{url}x", "does not exist"),
        (lambda url, _: url.replace(":no%20secret", ":a%20wrong"), 'password authentication failed for user "ada"'),
        (lambda url, port: url.replace(f":{port}/", ":1/"), "Connection refused"),
        (lambda url, _: url.replace("127.0.0.1", "no.such.host.invalid"), "resolve host"),
        (lambda url, _: f"{url}?nonsense=1", "invalid connection option"),
        (lambda url, port: url.replace(f":{port}/", ":port/"), "cannot be read"),
        (lambda url, _: url.replace("+psycopg", ""), r"write postgresql\+psycopg://"),
        (lambda url, _: url.replace("postgresql+psycopg", "postgres"), r"write postgresql\+psycopg://"),
        (lambda url, _: url.replace("+psycopg", "+psycopg2"), "a database of another kind"),
    ],
)  # fmt: skip
def test_what_cannot_be_reached_says_why_and_never_the_password(postgres, postgres_url, change, reason):
    url = change(postgres_url, postgres.port)

    with pytest.raises(LogRefusedError, match=reason) as caught:
        storage_at(url).open()

    assert type(caught.value) is LogRefusedError
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert not any(secret in shown for secret in (PASSWORD, PASSWORD.replace(" ", "%20"), "a wrong", "a%20wrong"))


def test_host_port_and_database_are_named(postgres, postgres_url):
    named = rf"^the log in database 'nowhere' on 127\.0\.0\.1:{postgres.port} cannot be opened"

    with pytest.raises(LogRefusedError, match=named):
        storage_at(postgres.url("nowhere")).open()


def test_without_its_driver_the_way_to_get_it_is_told(monkeypatch, postgres_url):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "ftactors.log.postgresql")

    with pytest.raises(LogRefusedError, match=r"pip install 'ftactors\[postgres\]'"):
        storage_at(postgres_url)


# --------------------------------------------------------------------------------------------------- what fails halfway


@pytest.mark.parametrize(("cut", "kept"), [(Cut.BEFORE_THE_REQUEST, 1), (Cut.BEFORE_THE_REPLY, 3)])
def test_a_connection_lost_at_a_write_leaves_the_outcome_unknown_and_all_of_it_or_nothing_is_there(
    postgres, postgres_url, cut, kept
):
    rows = chain([submitted("j1"), submitted("j2"), submitted("j3")], START, epoch=1)
    with (
        wire_to(postgres.port) as wire,
        opened(postgres_url.replace(f":{postgres.port}/", f":{wire.port}/")) as storage,
    ):
        storage.write(rows[:1])
        wire.cut = cut

        with pytest.raises(OutcomeUnknownError, match="failed while events 2 to 3 were committed"):
            storage.write(rows[1:])

    until(lambda: len(stored(postgres_url)) >= kept)  # the server may still be at it
    assert stored(postgres_url) == rows[:kept]


def test_a_killed_backend_leaves_the_outcome_of_a_write_unknown(postgres, postgres_url):
    with opened(postgres_url) as storage:
        kill_backends(postgres, postgres_url)

        with pytest.raises(OutcomeUnknownError, match=r"terminating connection|connection is"):
            storage.write(chain([submitted("j1")], START, epoch=1))

    assert stored(postgres_url) == []


def test_a_backend_killed_in_the_middle_of_a_write_leaves_nothing_of_it(postgres, postgres_url):
    rows = chain([submitted("j1"), submitted("j2")], START, epoch=1)
    with (
        opened(postgres_url) as storage,
        postgres.connect(database_of(postgres_url)) as other,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        other.execute("BEGIN; LOCK TABLE ftactors.events IN SHARE MODE")
        writing = elsewhere.submit(storage.write, rows)
        until(lambda: other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall())
        kill_backends(postgres, postgres_url, "wait_event_type = 'Lock'")

        assert isinstance(writing.exception(), OutcomeUnknownError)

    assert stored(postgres_url) == []


def test_reading_from_a_server_that_is_gone_is_refused_and_is_no_damage(postgres, postgres_url):
    with opened(postgres_url) as owner, opened(postgres_url) as fenced:
        looking = storage_at(postgres_url)
        looking.look()
        postgres.stop()
        try:
            for storage in (owner, fenced, looking):
                with pytest.raises(LogRefusedError, match="does not answer any more") as caught:
                    list(storage.read())
                assert type(caught.value) is LogRefusedError
            with pytest.raises(LogRefusedError, match="cannot be opened"):
                storage_at(postgres_url).open()
            with pytest.raises(OutcomeUnknownError):
                fenced.write(chain([submitted("j1")], START, epoch=2))
        finally:
            postgres.start()
            looking.close()


def test_what_was_written_outlives_a_crash_of_the_server(postgres, postgres_url):
    with opened(postgres_url) as storage:
        rows = chain([submitted("j1"), *(progress("j1", step) for step in range(20))], START, epoch=1)
        for row in rows:
            storage.write([row])
        postgres.stop(mode="immediate")
        postgres.start()

    assert stored(postgres_url) == rows


# ------------------------------------------------------------------------------------------------------ several at once


def test_a_process_stopped_in_the_middle_of_opening_keeps_others_waiting_for_seconds_only(postgres_url):
    with opened(postgres_url) as storage:
        storage.write(chain([submitted("j1")], START, epoch=1))
    with stopped_opener(postgres_url) as stopped:
        began = time.monotonic()
        with opened(postgres_url) as storage:
            waited_s = time.monotonic() - began
            stopped.send_signal(signal.SIGCONT)
            told = stopped.communicate()[0]
            storage.write(chain([progress("j1", 1)], next(storage.read()).mark, epoch=2))

    assert waited_s < 10
    assert "cannot be opened: terminating connection due to idle-in-transaction timeout" in told
    assert [row.epoch for row in stored(postgres_url)] == [1, 2]


@contextmanager
def stopped_opener(url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.log.stopped_opener", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stopping\n"
            yield process
        finally:
            process.kill()


def test_a_log_that_stays_locked_is_refused_after_a_while(postgres, postgres_url, monkeypatch):
    monkeypatch.setattr(postgresql, "_LOCK_WAIT_S", 0.1)
    with opened(postgres_url), postgres.connect(database_of(postgres_url)) as other:
        other.execute("BEGIN; SELECT FROM ftactors.head FOR UPDATE")

        with pytest.raises(LogRefusedError, match=r"kept locked by another session .* see pg_stat_activity"):
            storage_at(postgres_url).open()


def test_between_its_writes_an_owner_has_no_transaction_open(postgres, postgres_url):
    with opened(postgres_url) as storage:
        storage.write(chain([submitted("j1")], START, epoch=1))
        list(storage.read())

        with postgres.connect(database_of(postgres_url)) as other:
            query = "SELECT state, backend_xmin FROM pg_stat_activity WHERE application_name = 'ftactors'"
            until(lambda: other.execute(query).fetchall() == [("idle", None)])


def test_of_many_that_open_a_new_log_at_once_each_has_an_epoch_and_the_last_one_the_log(postgres_url):
    storages = [storage_at(postgres_url, owner=Owner(f"s{number}")) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        heads = list(threads.map(lambda storage: storage.open(), storages))

    assert sorted(head.epoch for head in heads) == [1, 2, 3, 4, 5, 6]
    for storage, head in sorted(zip(storages, heads, strict=True), key=lambda opening: opening[1].epoch)[:-1]:
        with pytest.raises(LogTakenError, match=r"\(epoch 6, event 0\)"):
            storage.write(chain([submitted("j1")], START, head.epoch))
    last = next(storage for storage, head in zip(storages, heads, strict=True) if head.epoch == 6)
    last.write(chain([submitted("j1")], START, epoch=6))
    assert [row.epoch for row in storages[0].read()] == [6]
    for storage in storages:
        storage.close()


def test_what_was_acknowledged_while_one_after_the_other_took_the_log_is_there_once_and_nothing_else(postgres_url):
    acknowledged: list[Row] = []
    writing: Future[Mark] | None = None
    with ThreadPoolExecutor(1) as elsewhere, ExitStack() as storages:
        for number in range(1, 6):
            storage = storage_at(postgres_url, owner=Owner(f"s{number}"))
            storages.callback(storage.close)
            head = storage.open()
            assert writing is None or writing.result() == head.end
            writing = elsewhere.submit(write_until_taken, storage, head, acknowledged)
            until(lambda seq=head.end.seq: len(acknowledged) >= seq + 20)
        with opened(postgres_url):
            assert writing.result() == acknowledged[-1].mark

    assert stored(postgres_url) == acknowledged
    assert {row.epoch for row in acknowledged} == {1, 2, 3, 4, 5}


def write_until_taken(storage: Storage, head: Head, acknowledged: list[Row]) -> Mark:
    """Write row after row, until another has the log; return the last one that was acknowledged."""
    end = head.end
    for _ in range(10_000):
        rows = chain([progress("j1", end.seq)], end, head.epoch)
        try:
            storage.write(rows)
        except LogTakenError:
            return end
        acknowledged += rows
        end = rows[-1].mark
    raise AssertionError("nobody took the log")


def test_who_looks_beside_a_running_owner_sees_one_moment(postgres_url):
    with opened(postgres_url) as storage:
        rows = chain([progress("j1", step) for step in range(30)], START, epoch=1)
        storage.write(rows[:10])
        looking = storage_at(postgres_url)
        head = looking.look()
        storage.write(rows[10:20])

        assert list(verified(looking.read(), head)) == rows[:10]
        with opened(postgres_url), pytest.raises(LogTakenError):  # to look keeps nobody from the log
            storage.write(rows[20:])
        assert list(verified(looking.read(), head)) == rows[:10]
        looking.close()


def test_tables_of_the_same_name_that_are_not_ours_stay_as_they_are(postgres, postgres_url):
    with postgres.connect(database_of(postgres_url)) as other:
        other.execute("CREATE TABLE public.events (mine text); CREATE TABLE public.head (mine text)")
        with opened(postgres_url) as storage:
            storage.write(chain([submitted("j1")], START, epoch=1))

        assert len(stored(postgres_url)) == 1
        assert other.execute("SELECT count(*) FROM public.events").fetchone() == (0,)
        other.execute("DROP TABLE public.events; DROP TABLE public.head")


def test_a_user_that_may_not_create_the_tables_is_told_so(postgres, postgres_url):
    postgres.admin("DROP ROLE IF EXISTS eve", f"CREATE ROLE eve LOGIN PASSWORD '{PASSWORD}'")

    with pytest.raises(LogRefusedError, match="cannot be opened: permission denied for database"):
        storage_at(postgres_url.replace("ada:", "eve:")).open()


def kill_backends(server: PostgresServer, url: str, which: str = "application_name = 'ftactors'") -> None:
    with server.connect(database_of(url)) as connection:
        connection.execute(
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "  # noqa: S608
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}".encode()
        )


def until(condition, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
