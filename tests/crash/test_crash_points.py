"""The scheduler is killed between any two of its effects, restarted, and has broken no promise.

Each run of a story is killed at one numbered place (`points.py`), lives again to the story's end, and is checked: right
after the restart for all that drivers were told and the cluster was made to do, at rest for the live state, and in the
end for the log (I1 to I7). The numbers go up from 1 until a process comes to its end unharmed, so no place is left out.

On SQLite all places are tried, on PostgreSQL a sample. `pytest -m long tests/crash`, which takes about an hour, tries
all of them on PostgreSQL, too, and kills the second process at each of its first places after each place of the first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crash.run import SECOND_PLACES, Plan, Run
from tests.crash.stories import STORIES
from tests.postgres import PostgresServer

ALL = [story.name for story in STORIES]
ON_POSTGRESQL = [story.name for story in STORIES if "postgresql" in story.on]
SAMPLE = ["two_jobs_take_turns", "a_cancel_races_the_published_model", "a_job_is_paused_and_resumed"]
_LEAST_PLACES = 45
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_AT_ONCE = 2


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder in memory, where there is one: killing a process takes nothing from it."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as made:
        yield made


@pytest.fixture
def databases(postgres: PostgresServer) -> Iterator[list[str]]:
    """The URLs of as many databases as are used at once."""
    with ExitStack() as stack:
        yield [postgres.url(stack.enter_context(postgres.fresh())) for _ in range(_AT_ONCE)]


def runs_of(
    stories: list[str],
    folder: str,
    urls: Sequence[str | None] = (None,) * _AT_ONCE,
    *,
    every: int = 1,
    seconds: int = 0,
) -> list[Run]:
    """Return all runs of some stories, made by as many processes as there are databases, once none broke a promise.

    Args:
        stories: Their names.
        folder: Where to make the runs.
        urls: Databases, None for SQLite's in the run's folder; each process makes every so-manyth run.
        every: The distance between the places at which the first process is killed.
        seconds: At how many places the second process is killed for each place of the first.
    """
    processes = []
    for index, url in enumerate(urls):
        place = Path(tempfile.mkdtemp(dir=folder))
        plan = Plan(stories, str(place), url, first=1 + index * every, every=every * len(urls), seconds=seconds)
        command = [sys.executable, "-m", "tests.crash.run", json.dumps(asdict(plan))]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    runs = [Run(**json.loads(line)) for line in lines]
    failed = [f"{run.story}, killed at {run.kills} ({run.killed_at}):\n{run.failure}" for run in runs if run.failure]
    assert not failed, f"{len(failed)} of {len(runs)} runs broke a promise; the first:\n{failed[0]}"
    assert [process.returncode for process in processes] == [0] * len(processes)
    return runs


def places(runs: list[Run], number: int = 0) -> Counter[str]:
    """Return the places at which the first process, or a later one, was killed, and how often at each."""
    found = Counter(place for run in runs if (place := run.killed_at[number]) is not None)
    stories = ", ".join(sorted({run.story for run in runs}))
    print(f"{stories}: killed {found.total()} times, at {dict(found)}")  # noqa: T201 - I7, in numbers
    return found


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_breaks_no_promise(story: str, folder: str):
    found = places(runs_of([story], folder))

    assert found.total() >= _LEAST_PLACES
    assert {"COMMIT", "INSERT INTO events", "UPDATE head SET", "an answer arrives", "os.pwrite", "Start"} <= {*found}


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_again_while_it_recovers_breaks_no_promise(story: str, folder: str):
    found = places(runs_of([story], folder, every=6, seconds=1), 1)

    assert found.total() >= _LEAST_PLACES // 8


def test_a_scheduler_on_postgresql_that_is_killed_somewhere_breaks_no_promise(folder: str, databases: list[str]):
    found = places(runs_of(SAMPLE, folder, databases, every=5))

    assert found.total() >= len(SAMPLE) * _LEAST_PLACES // 10


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ON_POSTGRESQL)
@pytest.mark.parametrize("seconds", [0, 1])
def test_a_scheduler_on_postgresql_that_is_killed_anywhere_breaks_no_promise(
    story: str, seconds: int, folder: str, databases: list[str]
):
    found = places(runs_of([story], folder, databases, seconds=seconds), seconds)

    assert found.total() >= _LEAST_PLACES // 3


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_and_again_anywhere_breaks_no_promise(story: str, folder: str):
    found = places(runs_of([story], folder, seconds=SECOND_PLACES), 1)

    assert found.total() >= _LEAST_PLACES * SECOND_PLACES // 3
