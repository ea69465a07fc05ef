"""`ftactors log`: what it says of a log that is sound, damaged, newer, or not there, and that it changes none."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from ftactors.cli import main
from ftactors.cli.edge import ExitCode
from ftactors.cli.log_replay import moment_of
from ftactors.cli.log_source import LiveLog
from ftactors.cli.log_stats import size
from ftactors.cli.log_tail import Lines
from ftactors.cli.log_verify import examined
from ftactors.cli.output import Output
from ftactors.log.errors import LogDamagedError
from ftactors.log.memory import MemoryStorage
from ftactors.log.rows import Row, chained
from ftactors.log.transcript import rows_of
from ftactors.log.urls import storage_at
from ftactors.runtime.log_desk import ROWS_AT_MOST, LogDesk
from tests.log.examples import Owner, progress
from tests.test_cli_reading import STORY, write_log

END = len(STORY) + 2
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a service that has left a log behind, which the commands here are configured for."""
    directory, file = tmp_path / "state", tmp_path / "service.yaml"
    write_log(directory / "events.db")
    file.write_text(yaml.safe_dump({"state_dir": str(directory), "ray_address": "local"}))
    monkeypatch.setenv("FTACTORS_CONFIG", str(file))
    return directory


def change(state_dir: Path, statement: str, *values: object) -> None:
    """Change the log behind the service's back."""
    connection = sqlite3.connect(state_dir / "events.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def rows_in(state_dir: Path) -> list[Row]:
    storage = storage_at(f"sqlite:///{state_dir / 'events.db'}")
    storage.look()
    rows = [*storage.read()]
    storage.close()
    return rows


@pytest.fixture
def log(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `ftactors log ...`, and return its exit code, its answer, and what it said beside it."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["log", *arguments])
        except SystemExit as left:
            code = int(left.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_sound_log_is_verified_with_its_size_and_time(log, state_dir):
    code, told, aside = log("verify")

    assert code == ExitCode.OK
    assert told.splitlines() == [
        f"log: sqlite:///{state_dir / 'events.db'}",
        f"events: {END}",
        "first_at: 1970-01-01T00:16:41Z",
        "last_at: 1970-01-01T00:16:57Z",
        "epochs: 1",
        "ok: yes",
    ]
    assert aside == f"no service is running; this is its log (sqlite:///{state_dir / 'events.db'})\n"


def test_a_damaged_log_is_exit_code_5_with_the_first_bad_event_and_how_to_restore(log, state_dir):
    change(state_dir, "UPDATE events SET at = at + 1 WHERE seq IN (7, 9)")
    code, told, aside = log("verify")
    _, as_json, _ = log("verify", "--json")

    assert code == ExitCode.LOG_DAMAGED
    assert "first bad event: 7\nok: NO\n" in told
    assert "event 7 is not what was written: it does not match its hash; events 1 to 6" in aside
    assert "events 1 to 6 are sound. To go on, stop the service and restore the log from a backup" in aside
    found = json.loads(as_json)
    assert (found["ok"], found["events"], found["bad_seq"]) == (False, 6, 7)


def test_a_log_of_a_newer_version_is_exit_code_5_and_not_called_damaged(log, state_dir):
    *before, last = rows_in(state_dir)
    payload = json.dumps(json.loads(last.payload) | {"watts": 300})
    newer = last._replace(payload=payload, hash=chained(before[-1].hash, last[:-2], payload))
    change(state_dir, "UPDATE events SET payload = ?, hash = ? WHERE seq = ?", newer.payload, newer.hash, newer.seq)
    change(state_dir, "UPDATE head SET hash = ?", newer.hash)
    (state_dir / "events.db.witness").unlink()
    code, _, aside = log("verify")

    assert code == ExitCode.LOG_DAMAGED
    assert f"event {END} is 'attempt_started' with contents (watts) that ftactors" in aside
    assert "restore" not in aside


@pytest.mark.parametrize("arguments", [["verify"], ["tail"], ["show", "1"], ["export"], ["replay"], ["stats"]])
def test_where_there_is_no_log_that_is_told_with_exit_code_3_and_none_is_made(log, state_dir, arguments):
    for file in state_dir.iterdir():
        file.unlink()
    code, told, aside = log(*arguments)

    assert (code, told) == (ExitCode.NOT_FOUND, "")
    assert aside == (
        f"there is no log at sqlite:///{state_dir / 'events.db'}: no service has run with this configuration yet\n"
    )
    assert [*state_dir.iterdir()] == []


def test_reading_changes_no_byte_of_the_log(log, state_dir):
    def stored() -> dict[str, bytes]:
        aside = ("-wal", "-shm")  # SQLite's own
        return {file.name: file.read_bytes() for file in state_dir.iterdir() if not file.name.endswith(aside)}

    before = stored()
    for arguments in (["verify"], ["tail", "-f"], ["show", "3"], ["export"], ["replay", "--until", "5"], ["stats"]):
        assert log(*arguments)[0] == ExitCode.OK, arguments
    with suppress(SystemExit):
        main(["list"])

    assert before["events.db"]
    assert stored() == before


def test_the_newest_events_are_shown_a_line_each_with_tabs_in_a_pipe(log):
    code, told, _ = log("tail", "-n", "2")
    lines = [line.split("\t") for line in told.splitlines()]

    assert code == ExitCode.OK
    assert [line[:4] for line in lines] == [
        [str(END - 1), "1970-01-01T00:16:56Z", "attempt_placed", "ftjob-3"],
        [str(END), "1970-01-01T00:16:57Z", "attempt_started", "ftjob-3"],
    ]
    assert lines[1][4].startswith("attempt=2 incarnation=i2 ")
    assert len(log("tail")[1].splitlines()) == END


def test_a_tail_for_programs_is_a_document_a_line(log):
    _, told, _ = log("tail", "-n", "1", "--json")
    found = json.loads(told)

    assert (found["seq"], found["job_seq"], found["event"]["type"]) == (END, 6, "attempt_started")


def test_who_would_follow_is_told_that_nothing_runs(log):
    code, told, aside = log("tail", "-n", "1", "-f")

    assert (code, len(told.splitlines())) == (ExitCode.OK, 1)
    assert aside.endswith("no service is running, so no more events come\n")


def test_one_event_is_shown_with_all_its_columns_and_its_payload(log):
    _, told, _ = log("show", "4")
    facts, _, payload = told.partition("\n\n")
    _, as_json, _ = log("show", "4", "--json")

    assert "job_seq: 2\n" in facts
    assert "at: 1004.0 (1970-01-01T00:16:44Z)\n" in facts
    assert facts.endswith("fits: yes")
    assert json.loads(payload)["purpose"] == "prepare"
    found = json.loads(as_json)
    assert (found["seq"], found["payload"]["purpose"], found["fits"]) == (4, "prepare", True)
    assert f"hash: {found['hash']}\n" in facts


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET at = 'changed' WHERE seq = 4",
        "UPDATE events SET payload = 'changed' WHERE seq = 4",
        "UPDATE events SET hash = 'changed' WHERE seq = 4",
        "UPDATE events SET type = 'changed' WHERE seq = 4",
    ],
)
def test_an_event_that_was_changed_is_shown_as_it_is_and_said_not_to_fit(log, state_dir, statement):
    change(state_dir, statement)
    code, told, _ = log("show", "4")
    first = log("show", "1")[1]

    assert code == ExitCode.OK
    assert "changed" in told
    assert "fits: NO" in told
    assert "fits: yes" in first


@pytest.mark.parametrize("seq", ["0", "18"])
def test_an_event_that_there_is_not_is_exit_code_3_and_told_with_those_that_are(log, seq):
    code, told, aside = log("show", seq)

    assert (code, told) == (ExitCode.NOT_FOUND, "")
    assert aside.endswith(f"there is no event {seq}: the log has events 1 to {END}\n")


def test_an_export_is_the_log_row_by_row_and_can_be_verified(log, state_dir, tmp_path):
    _, told, _ = log("export")
    code, nothing, aside = log("export", "-o", str(tmp_path / "log.jsonl"))
    rows = [*rows_of(told.splitlines())]

    assert rows == rows_in(state_dir)
    assert (code, nothing) == (ExitCode.OK, "")
    assert (tmp_path / "log.jsonl").read_text() == told
    assert aside.endswith(f"{END} events written to {tmp_path / 'log.jsonl'}\n")


def test_what_is_sound_of_a_damaged_log_is_exported(log, state_dir, tmp_path):
    change(state_dir, "DELETE FROM events WHERE seq = 7")
    code, _, aside = log("export", "-o", str(tmp_path / "log.jsonl"))

    assert code == ExitCode.LOG_DAMAGED
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 6
    assert "event 7 is missing; event 8 is there" in aside


def test_an_export_to_where_nothing_can_be_written_is_one_message(log, tmp_path):
    code, _, aside = log("export", "-o", str(tmp_path / "none" / "log.jsonl"))

    assert code == ExitCode.UNAVAILABLE
    assert aside.splitlines()[-1].startswith(f"{tmp_path / 'none' / 'log.jsonl'} cannot be written: ")


@pytest.mark.parametrize(
    ("until", "statuses"),
    [
        ("2", []),
        ("3", ["queued"]),
        ("8", ["running"]),
        ("1970-01-01T00:16:48Z", ["running"]),
        ("1970-01-01T02:16:48.5+02:00", ["running"]),
        ("11", ["cancelled", "completed"]),
        ("17", ["running", "cancelled", "completed"]),
        ("1s ago", ["running", "cancelled", "completed"]),
    ],
)
def test_what_the_service_knew_then_is_told(log, until, statuses):
    code, told, _ = log("replay", "--until", until)
    found = json.loads(log("replay", "--until", until, "--json")[1])
    cells = [line.split("\t") for line in told.splitlines()]

    assert code == ExitCode.OK
    assert [cell[2] for cell in cells if cell[0] == "job"] == statuses
    assert [job["status"] for job in found["jobs"]] == statuses
    assert [cell[1] for cell in cells if cell[0] == "model"] == ["tuned"] * statuses.count("completed")
    assert (found["places_jobs"], found["rules"]["max_concurrent_preparations"]) == (True, 2)


def test_a_replay_up_to_the_damage_is_shown_and_one_that_ends_before_it_is_whole(log, state_dir):
    change(state_dir, "UPDATE events SET v = 2 WHERE seq = 9")
    before = log("replay", "--until", "8")
    code, told, aside = log("replay", "--until", "11")

    assert before[0] == ExitCode.OK
    assert before[1] == told
    assert code == ExitCode.LOG_DAMAGED
    assert "event 9 is not what was written" in aside


@pytest.mark.parametrize("until", ["0", "18"])
def test_a_replay_up_to_an_event_that_there_is_not_is_exit_code_3(log, until):
    code, told, aside = log("replay", "--until", until)

    assert (code, told) == (ExitCode.NOT_FOUND, "")
    assert aside.endswith(f"there is no event {until}: the log has events 1 to {END}\n")


def test_a_replay_until_nonsense_is_exit_code_2(log):
    code, told, aside = log("replay", "--until", "yesterday")

    assert (code, told) == (ExitCode.INVALID, "")
    assert "neither an event's number" in aside


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("812", 812),
        ("2026-01-31T11:30Z", NOW - timedelta(minutes=30)),
        ("2026-01-31 13:00+01:00", NOW),
        ("2026-01-31T09:00", datetime(2026, 1, 31, 9).astimezone()),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
        ("2h ago", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
    ],
)
def test_a_moment_is_an_event_or_a_time(text, moment):
    assert moment_of(text, NOW) == moment


def test_a_log_is_counted_by_type_job_day_and_opening(log):
    found = json.loads(log("stats", "--json", "--top", "1")[1])
    lines = log("stats")[1].splitlines()

    assert (found["events"], found["jobs"], found["by_job"]) == (END, 3, {"ftjob-1": 7})
    assert found["by_day"] == {"1970-01-01": END}
    assert sum(found["by_type"].values()) == END
    assert [(opening["epoch"], opening["version"]) for opening in found["openings"]] == [(1, "0.1.0")]
    assert found["bytes_on_disk"] > found["payload_bytes"] > 1_000
    assert {f"events: {END}", "job\tftjob-3\t6", "type\tjob_submitted\t3", f"day\t1970-01-01\t{END}"} <= {*lines}


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB")])
def test_sizes_are_told_as_a_person_reads_them(count, shown):
    assert size(count) == shown


@pytest.mark.parametrize("command", [["list"], ["status", "ftjob-1"]])
def test_statuses_up_to_the_damage_can_be_read_and_the_damage_is_told(state_dir, capsys, command):
    change(state_dir, "UPDATE events SET payload = '{}' WHERE seq = 9")
    with suppress(SystemExit):
        assert main(command) == ExitCode.OK
    told, aside = capsys.readouterr()

    assert "running" in told
    assert "its log up to event 8" in aside
    assert "event 9 is not what was written" in aside
    assert "restore the log from a backup" in aside
    assert "jobs go on at the next start" not in told + aside


def test_a_person_gets_one_line_an_event_cut_to_the_terminal(state_dir):
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "ftactors.cli", "log", "tail", "-n", "3"]
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the other side is closed
            while read := os.read(master, 4096):
                shown += read
    os.close(master)
    _, *lines = shown.decode().splitlines()

    assert process.returncode == 0
    assert [line.split()[:3] for line in lines] == [
        ["15", "00:16:55", "dataset_prepared"],
        ["16", "00:16:56", "attempt_placed"],
        ["17", "00:16:57", "attempt_started"],
    ]
    assert all(len(line) == 80 and line.endswith("…") for line in lines)


class Service:
    """A scheduler's log and its desk, asked as the command line asks them."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.owner = Owner(MemoryStorage())
        self.desk = LogDesk(self.owner.log, asyncio.Event().wait)
        self.asked: list[str] = []

    def ask(self, method: str, *arguments: int) -> object:
        self.asked.append(method)
        return self._runner.run(getattr(self.desk, method)(*arguments))

    def record(self, count: int) -> None:
        async def recorded() -> None:
            await self.owner.log.durable([self.owner.record(progress("j", step)) for step in range(count)][-1])

        self._runner.run(recorded())


@pytest.fixture
def service() -> Iterator[Service]:
    with asyncio.Runner() as runner:
        yield Service(runner)


def test_a_log_that_grows_is_read_page_by_page_up_to_where_it_was(service):
    service.record(ROWS_AT_MOST + 10)
    source = LiveLog("live", service.ask)
    service.record(5)
    verdict = examined(source.rows(), source.head)

    assert (verdict.sound, verdict.problem) == (ROWS_AT_MOST + 10, None)
    assert service.asked == ["log_end", "log_rows", "log_rows"]
    assert [row.seq for row in source.rows(after=3, limit=2)] == [4, 5]
    assert [row.seq for row in source.newer(ROWS_AT_MOST + 12)] == [
        ROWS_AT_MOST + 13,
        ROWS_AT_MOST + 14,
        ROWS_AT_MOST + 15,
    ]


def test_rows_that_were_lost_under_a_service_that_runs_are_missed(service):
    service.record(10)
    source = LiveLog("live", service.ask)
    del service.owner.log._storage.disk.rows[6:]  # type: ignore[attr-defined]
    verdict = examined(source.rows(), source.head)

    assert verdict.sound == 6
    assert isinstance(verdict.problem, LogDamagedError)
    assert verdict.problem.seq == 7


def test_a_service_that_refuses_its_log_gives_the_reason_after_the_rows(service):
    service.record(4)
    service.owner.log._refusal = LogDamagedError(5, "event 5 is lost")
    source = LiveLog("live", service.ask)
    verdict = examined(source.rows(), source.head)

    assert (verdict.sound, verdict.document()["problem"]) == (4, "event 5 is lost")
    assert [row.seq for row in source.rows(after=1, limit=2)] == [2, 3]


def test_events_are_shown_at_once(service, capsys):
    service.record(1)
    (row,) = LiveLog("live", service.ask).rows()
    Lines(Output()).show(row)

    assert capsys.readouterr().out.startswith("1\t1970-01-01T00:16:41Z\tprogress_reported\tj\t")
