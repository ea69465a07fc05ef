"""Jobs and logs are read while no service runs, and nothing is changed by that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ftactors.cli.edge import ExitCode, LogNotFoundError, exit_code_of
from ftactors.cli.logs import Tail, follow_log, log_files, print_log_of
from ftactors.cli.offline import LogContent, read_log
from ftactors.cli.output import Output
from ftactors.cli.reading import NOT_RUNNING, LogReading
from ftactors.cli.session import tell_what_goes_on
from ftactors.core.errors import JobNotFoundError, LogRefusedError
from ftactors.core.events import AnyEvent, ServiceStarted
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.log.rows import Row, row_of
from ftactors.log.urls import storage_at
from tests.core import histories as h

RULES = ServiceStarted(config=ServiceConfig().model_dump(mode="json"), by="someone")
STORY = [
    *[h.submitted("ftjob-1"), *h.prepared(1, "ftjob-1"), *h.running(2, "ftjob-1"), h.completed(2, "ftjob-1")],
    *[h.submitted("ftjob-2", new_model_id="second"), h.cancelled("ftjob-2")],
    *[h.submitted("ftjob-3", new_model_id="third"), *h.prepared(1, "ftjob-3"), *h.running(2, "ftjob-3")],
]


def write_log(path: Path, events: Sequence[AnyEvent] = STORY) -> str:
    """Write a log as a service that is gone left it, and return its URL."""
    url = f"sqlite:///{path}"
    storage = storage_at(url)
    last, rows = storage.open().end.hash, list[Row]()
    for place in h.recorded([h.opened(), RULES, *events]):
        rows.append(row_of(place, last))
        last = rows[-1].hash
    storage.write(rows)
    storage.close()
    return url


@pytest.fixture
def reading(tmp_path: Path) -> LogReading:
    content = read_log(write_log(tmp_path / "events.db"))
    assert content is not None
    return LogReading(content)


def test_a_log_that_is_not_there_is_not_made_by_reading(tmp_path):
    assert read_log(f"sqlite:///{tmp_path / 'events.db'}") is None
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_read_twice_with_the_same_answer_and_given_back(tmp_path):
    url = write_log(tmp_path / "events.db")
    first, second = read_log(url), read_log(url)

    assert first is not None
    assert second is not None
    assert first.events("ftjob-1") == second.events("ftjob-1") != []
    assert first.state.seq == len(STORY) + 2


def test_a_log_that_a_service_holds_is_refused_by_name(tmp_path):
    url = write_log(tmp_path / "events.db")
    holder = storage_at(url)
    holder.open()

    with pytest.raises(LogRefusedError, match="held by pid"):
        read_log(url, lock_wait_s=0)
    holder.close()


async def test_jobs_are_listed_newest_first_by_page_and_by_status(reading):
    everything = await reading.jobs(None, 10, 0)
    page = await reading.jobs(None, 1, 1)
    cancelled = await reading.jobs(JobStatus.CANCELLED, 10, 0)

    assert [job.job_id for job in everything] == ["ftjob-3", "ftjob-2", "ftjob-1"]
    assert [job.job_id for job in page] == ["ftjob-2"]
    assert [job.job_id for job in cancelled] == ["ftjob-2"]
    assert await reading.jobs(JobStatus.QUEUED, 10, 0) == []


async def test_a_job_that_has_not_ended_waits_for_a_service(reading):
    assert (await reading.status("ftjob-3")).wait_reason == NOT_RUNNING
    assert (await reading.status("ftjob-1")).wait_reason is None


async def test_who_starts_a_service_for_something_else_is_told_which_jobs_go_on_meanwhile(reading, capsys):
    await tell_what_goes_on(reading, Output())
    await tell_what_goes_on(LogReading(LogContent()), Output())

    assert capsys.readouterr() == (
        "",
        "no service runs, so this command starts one, and jobs go on until it ends: ftjob-3\n",
    )


async def test_events_and_models_are_read_too(reading):
    history = await reading.events("ftjob-2")
    models = await reading.models()

    assert [place.event.type for place in history] == ["job_submitted", "job_cancelled"]
    assert [(model.model_id, model.job_id) for model in models] == [("tuned", "ftjob-1")]


async def test_a_job_that_there_is_not_is_an_error(reading):
    with pytest.raises(JobNotFoundError, match="'ftjob-9'"):
        await reading.status("ftjob-9")
    with pytest.raises(JobNotFoundError, match="'ftjob-9'"):
        await LogReading(LogContent()).events("ftjob-9")


def write_attempt(run_dir: Path, attempt: int, text: str) -> Path:
    path = run_dir / "attempts" / str(attempt) / "train.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


def test_the_logs_of_attempts_are_found_in_their_order(tmp_path):
    for attempt in (10, 2, 1):
        write_attempt(tmp_path, attempt, "")
    (tmp_path / "attempts" / "3").mkdir()

    assert list(log_files(tmp_path)) == [1, 2, 10]


def test_a_tail_gives_whole_lines_as_they_come_and_the_rest_at_the_end(tmp_path):
    tail = Tail(write_attempt(tmp_path, 1, "one\ntw"))
    first = list(tail.new_lines())
    write_attempt(tmp_path, 1, "o\n10%\r50%\r100%\nthr")
    second = list(tail.new_lines())

    assert (first, second) == (["one"], ["two", "100%"])
    assert list(tail.new_lines(to_the_end=True)) == ["thr"]
    assert list(tail.new_lines(to_the_end=True)) == []


def test_the_newest_log_is_printed_where_no_attempt_is_named(tmp_path, capsys):
    write_attempt(tmp_path, 1, "preparing\n")
    write_attempt(tmp_path, 2, "training\nwithout an end")
    print_log_of(tmp_path, None, Output())
    newest = capsys.readouterr().out
    print_log_of(tmp_path, 1, Output(as_json=True))

    assert newest == "training\nwithout an end\n"
    assert json.loads(capsys.readouterr().out) == {"attempt": 1, "line": "preparing"}


def test_a_log_that_is_not_there_is_exit_code_3_and_told_with_the_place_and_those_that_are(tmp_path, capsys):
    write_attempt(tmp_path, 1, "preparing\n")
    with pytest.raises(LogNotFoundError) as refused:
        print_log_of(tmp_path, 4, Output())

    assert capsys.readouterr().out == ""
    assert exit_code_of(refused.value) == ExitCode.NOT_FOUND
    assert str(refused.value) == (
        f"there is no log of attempt 4 in {tmp_path}; there are those of attempts 1; "
        "it may be on another machine, where the job ran"
    )


class Ending(LogReading):
    """A job of which each look finds more of its log, until it has ended."""

    def __init__(self, content: LogContent, run_dir: Path) -> None:
        super().__init__(content)
        self._run_dir = run_dir
        self._looks = 0

    async def status(self, job_id):
        self._looks += 1
        write_attempt(self._run_dir, self._looks, f"look {self._looks}\n")
        return await super().status("ftjob-1" if self._looks == 3 else job_id)


async def test_a_log_is_followed_over_attempts_until_the_job_has_ended(tmp_path, capsys):
    content = read_log(write_log(tmp_path / "events.db"))
    assert content is not None

    await follow_log(Ending(content, tmp_path), "ftjob-3", tmp_path, None, Output(), poll_s=0)
    told = capsys.readouterr()

    assert told.out == "look 1\nlook 2\nlook 3\n"
    assert told.err == "--- attempt 1\n--- attempt 2\n--- attempt 3\n"


async def test_an_attempt_is_followed_until_there_is_a_newer_one(reading, tmp_path, capsys):
    write_attempt(tmp_path, 1, "preparing\nwithout an end")
    write_attempt(tmp_path, 2, "training\n")

    await follow_log(reading, "ftjob-3", tmp_path, 1, Output(), poll_s=0)

    assert (await reading.status("ftjob-3")).attempt == 2
    assert capsys.readouterr().out == "preparing\nwithout an end\n"


async def test_following_an_attempt_that_left_no_log_here_ends_with_that(reading, tmp_path):
    with pytest.raises(LogNotFoundError, match="there is no log of attempt 1 in"):
        await follow_log(reading, "ftjob-3", tmp_path, 1, Output(), poll_s=0)
