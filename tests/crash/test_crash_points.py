"""The scheduler is killed between any two of its effects, restarted, and has broken no promise.

Each run of a story is killed at one numbered place (`points.py`), lives again to the story's end, and is checked: right
after the restart for all that drivers were told and the cluster was made to do, at rest for the live state, and in the
end for the log (I1 to I7). Which places there are is found out by a process that nobody kills.

On SQLite all places of most stories are tried, on PostgreSQL a sample. `pytest -m long tests/crash`, half an hour on 2
cores, tries all of them on PostgreSQL, too, and kills the second process at each of its first places after each place
of the first.
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

from tests.crash.points import NOWHERE, Place
from tests.crash.run import Plan, Run
from tests.crash.stories import STORIES
from tests.postgres import PostgresServer

ALL = [story.name for story in STORIES]
ON_POSTGRESQL = [story.name for story in STORIES if "postgresql" in story.on]
EVERY = {story.name: story.every for story in STORIES}
SAMPLE = ["two_jobs_take_turns", "a_cancel_races_the_published_model", "a_job_is_paused_and_resumed"]
_LEAST_PLACES = 20
_RECOVERY = 23
"""So many places come first in the life of a second process."""
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


def runs_of(tellers: list[Teller], story: str, kills: list[list[Place]], urls: Sequence[str | None]) -> list[Run]:
    """Return runs of a story, made by turns, once it is sure that none broke a promise."""
    for index, (teller, url) in enumerate(zip(tellers, urls, strict=True)):
        teller.ask(Plan(story, kills[index :: len(tellers)], url))
    runs = [run for teller in tellers for run in teller.answer()]
    failed = [f"{run.story}, killed at {run.kills} ({run.killed_at}):\n{run.failure}" for run in runs if run.failure]
    assert not failed, f"{len(failed)} of {len(runs)} runs broke a promise; the first:\n{failed[0]}"
    return runs


def kill_at_each_place(
    tellers: list[Teller], story: str, urls: Sequence[str | None] = (None,) * _AT_ONCE, *, every: int = 1
) -> None:
    """Kill the scheduler at each place of a story, or at some."""
    places = places_of(tellers, story, urls)[::every]
    runs = runs_of(tellers, story, [[place] for place in places], urls)
    killed = Counter(name for run in runs for name in run.killed_at if name is not None)

    print(f"{story}: killed at {killed.total()} of {len(places)} places: {dict(killed)}")  # noqa: T201 - I7
    assert {place.name for place in places if place.number == 1} <= {*killed}
    assert killed.total() >= 0.9 * len(places)  # how often an order is repeated, for one, depends on the time


def kill_twice(
    tellers: list[Teller], story: str, kills: list[list[Place]], urls: Sequence[str | None] = (None,) * _AT_ONCE
) -> None:
    """Kill the scheduler, and the next one, too."""
    runs = runs_of(tellers, story, kills, urls)
    killed = Counter(run.killed_at[1] for run in runs if None not in run.killed_at)

    print(f"{story}: killed twice in {killed.total()} of {len(kills)} runs, at last at {dict(killed)}")  # noqa: T201
    assert killed.total() >= 0.5 * len(kills)  # the second process may have less to do than there are places


def places_of(tellers: list[Teller], story: str, urls: Sequence[str | None] = (None,) * _AT_ONCE) -> list[Place]:
    """Return the places that a process crosses which nobody kills."""
    tellers[0].ask(Plan(story, [[NOWHERE]], urls[0]))
    [run] = tellers[0].answer()
    assert run.failure is None, run.failure
    assert len(run.crossed) >= _LEAST_PLACES
    return [Place(*place) for place in run.crossed]


def while_recovering(places: list[Place]) -> list[list[Place]]:
    """Return these places, each with one of the first places of the second process, all of which have their turn."""
    return [[place, Place("", 1 + at * 7 % _RECOVERY)] for at, place in enumerate(places)]


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_breaks_no_promise(story: str, tellers: list[Teller]):
    kill_at_each_place(tellers, story, every=EVERY[story])


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_again_while_it_recovers_breaks_no_promise(story: str, tellers: list[Teller]):
    kill_twice(tellers, story, while_recovering(places_of(tellers, story)[:: 8 * EVERY[story]]))


@pytest.mark.parametrize("story", SAMPLE)
def test_a_scheduler_on_postgresql_that_is_killed_somewhere_breaks_no_promise(
    story: str, tellers: list[Teller], databases: list[str]
):
    kill_at_each_place(tellers, story, databases, every=4)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ON_POSTGRESQL)
def test_a_scheduler_on_postgresql_that_is_killed_anywhere_breaks_no_promise(
    story: str, tellers: list[Teller], databases: list[str]
):
    kill_at_each_place(tellers, story, databases)
    kill_twice(tellers, story, while_recovering(places_of(tellers, story, databases)), databases)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_and_again_anywhere_breaks_no_promise(story: str, tellers: list[Teller]):
    seconds = [Place("", number) for number in range(1, _RECOVERY + 1)]
    kill_twice(tellers, story, [[first, second] for first in places_of(tellers, story) for second in seconds])
