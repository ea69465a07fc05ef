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

ALL = {story.name: story for story in STORIES}
ON_POSTGRESQL = [story.name for story in STORIES if "postgresql" in story.on]
SAMPLE = ["two_jobs_take_turns", "a_cancel_races_the_published_model", "a_job_is_paused_and_resumed"]
COMMON = (
    "UPDATE head SET",
    "INSERT INTO events",
    "COMMIT",
    "os.pwrite",
    "Start",
    "a pull is answered",
    "an answer arrives",
)
_LEAST_PLACES = 45
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_AT_ONCE = min(os.cpu_count() or 1, 8)


class Teller:
    """A process that tells stories, plan by plan; see `run.py`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "tests.crash.run", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, plan: Plan) -> None:
        """Have it begin with a plan."""
        print(json.dumps(asdict(plan)), file=self._process.stdin, flush=True)

    def answer(self) -> list[Run]:
        """Return the runs of the plan, once all are made."""
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        assert line, "a process that tells stories has ended; what it had to say is in the standard error"
        return [Run(**run) for run in json.loads(line)]

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


@pytest.fixture(scope="module")
def tellers() -> Iterator[list[Teller]]:
    """Processes that take turns, in a folder in memory where there is one: no power is cut here."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as folder:
        tellers = [Teller(Path(folder) / str(number)) for number in range(_AT_ONCE)]
        yield tellers
        for teller in tellers:
            teller.close()


@pytest.fixture
def databases(postgres: PostgresServer) -> Iterator[list[str]]:
    """The URLs of as many databases as are used at once."""
    with ExitStack() as stack:
        yield [postgres.url(stack.enter_context(postgres.fresh())) for _ in range(_AT_ONCE)]


def runs_of(
    tellers: list[Teller], *stories: str, urls: Sequence[str] = (), every: int = 1, second_places: int = 0
) -> list[Run]:
    """Return all runs of some stories, once it is sure that none broke a promise.

    Args:
        tellers: They take turns with the places, and need not be at the same one.
        stories: Their names.
        urls: A database for each teller; none for SQLite.
        every: The distance between the places at which the first process is killed.
        second_places: At how many places the second process is killed for each place of the first.
    """
    for index, teller in enumerate(tellers):
        url, first = urls[index] if urls else None, 1 + index * every
        teller.ask(Plan([*stories], url, first=first, every=every * len(tellers), second_places=second_places))
    runs = [run for teller in tellers for run in teller.answer()]
    failed = [f"{run.story}, killed at {run.kills} ({run.killed_at}):\n{run.failure}" for run in runs if run.failure]
    assert not failed, f"{len(failed)} of {len(runs)} runs broke a promise; the first:\n{failed[0]}"
    return runs


def places(runs: list[Run], number: int = 0) -> Counter[str]:
    """Return the places at which the first process, or a later one, was killed, and how often at each."""
    found = Counter(place for run in runs if (place := run.killed_at[number]) is not None)
    stories = ", ".join(sorted({run.story for run in runs}))
    print(f"{stories}: killed {found.total()} times, at {dict(found)}")  # noqa: T201 - I7, in numbers
    return found


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_breaks_no_promise(story: str, tellers: list[Teller]):
    found = places(runs_of(tellers, story))

    assert found.total() >= _LEAST_PLACES
    assert {*COMMON, *ALL[story].crosses} <= {*found}


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_again_while_it_recovers_breaks_no_promise(story: str, tellers: list[Teller]):
    found = places(runs_of(tellers, story, every=8, second_places=1), 1)

    assert found.total() >= _LEAST_PLACES // 9


def test_a_scheduler_on_postgresql_that_is_killed_somewhere_breaks_no_promise(
    tellers: list[Teller], databases: list[str]
):
    found = places(runs_of(tellers, *SAMPLE, urls=databases, every=5))

    assert found.total() >= len(SAMPLE) * _LEAST_PLACES // 10


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ON_POSTGRESQL)
@pytest.mark.parametrize("second_places", [0, 1])
def test_a_scheduler_on_postgresql_that_is_killed_anywhere_breaks_no_promise(
    story: str, second_places: int, tellers: list[Teller], databases: list[str]
):
    found = places(runs_of(tellers, story, urls=databases, second_places=second_places), second_places)

    assert found.total() >= _LEAST_PLACES // 3


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_and_again_anywhere_breaks_no_promise(story: str, tellers: list[Teller]):
    found = places(runs_of(tellers, story, second_places=SECOND_PLACES), 1)

    assert found.total() >= _LEAST_PLACES * SECOND_PLACES // 3
