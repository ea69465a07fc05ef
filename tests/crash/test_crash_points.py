"""The scheduler is killed between any two of its effects, restarted, and has broken no promise.

Each run of a story is killed at one numbered place (`points.py`), lives again to the story's end, and is checked: right
after the restart for all that drivers were told and the cluster was made to do, at rest for the live state, and in the
end for the log (I1 to I7). The numbers go up from 1 until a process comes to its end unharmed, so no place is left out.

On SQLite all places are tried, on PostgreSQL a sample; `pytest -m long tests/crash` tries all of them there, too, and
kills the second process after each of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crash.run import Plan, Run
from tests.crash.stories import STORIES

ALL = [story.name for story in STORIES]
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_LEAST_PLACES = 60


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder in memory, where there is one: killing a process takes nothing from it."""
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None) as made:
        yield made


def made(plan: Plan) -> list[Run]:
    """Make the runs of a plan; return them, once it is sure that none broke a promise."""
    command = [sys.executable, "-m", "tests.crash.run", json.dumps(asdict(plan))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    runs = [Run(**json.loads(line)) for line in output.splitlines()]
    failed = [f"{run.story}, killed at {run.kills} ({run.killed_at}):\n{run.failure}" for run in runs if run.failure]
    assert not failed, f"{len(failed)} of {len(runs)} runs broke a promise; the first:\n{failed[0]}"
    return runs


def places(runs: list[Run], number: int = 0) -> Counter[str]:
    """Return the places at which the first process, or a later one, was killed, and how often at each."""
    return Counter(place for run in runs if (place := run.killed_at[number]) is not None)


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_anywhere_breaks_no_promise(story: str, folder: str):
    found = places(made(Plan([story], folder)))

    print(f"{story}: killed at {found.total()} places, {dict(found)}")  # noqa: T201 - the numbers of this test
    assert found.total() >= _LEAST_PLACES
    assert {"COMMIT", "INSERT INTO events", "UPDATE head SET", "an answer arrives", "os.pwrite", "Start"} <= {*found}


@pytest.mark.parametrize("story", ALL)
def test_a_scheduler_that_is_killed_again_while_it_recovers_breaks_no_promise(story: str, folder: str):
    runs = made(Plan([story], folder, every=5, twice=True))

    print(f"{story}: killed twice {places(runs, 1).total()} times, at last at {dict(places(runs, 1))}")  # noqa: T201
    assert places(runs, 1).total() >= _LEAST_PLACES // 10
