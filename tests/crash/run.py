"""Tells stories again and again, and kills the scheduler at another place each time.

`python -m tests.crash.run FOLDER` reads plans from its standard input, a line of JSON each, and answers each with its
runs, in a line of JSON. A process that is to be killed is forked from this one, which has all imported; the last life
of a run, which nobody kills, is lived in this one. All that outlives a scheduler is in a folder for each run: database,
cluster, drivers' notes. No power is cut here, so a folder in memory will do.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from ftactors.core.errors import FtactorsError
from tests.crash.life import check_end, empty, live
from tests.crash.points import KILLED, Points
from tests.crash.stories import STORIES, Story

_HANGS_AFTER_S = 60
_UNHARMED = 2
"""A story is told until so many processes came to their end: which events are committed at once differs each time."""
SECOND_PLACES, _SECOND_STRIDE = 23, 7
"""The second process is killed at one of its first places, where it recovers; in turn, for 7 does not divide 23."""


@dataclass(frozen=True)
class Plan:
    """Which runs to make.

    Args:
        stories: Their names.
        url: A database that is emptied for each run; None: an SQLite file in the run's folder.
        first: The number of the place at which the first process is killed in the first run.
        every: The distance from one run's place to the next one's.
        second_places: At how many places the second process is killed, one in a run, for each place of the first.
    """

    stories: list[str]
    url: str | None = None
    first: int = 1
    every: int = 1
    second_places: int = 0


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    story: str
    kills: list[int]
    """The numbers of the places at which its processes were to be killed, one process after another."""
    killed_at: list[str | None]
    """The places at which they were; None where a process came to its end before."""
    failure: str | None = None
    """What the process that broke a promise had to say."""


def main(folder: Path) -> None:
    """Make the runs of each plan."""
    faulthandler.register(signal.SIGALRM, chain=True)  # who hangs says where, and ends
    _warm_up(folder)
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        runs = [run for story in STORIES if story.name in plan.stories for run in _runs(story, plan, folder)]
        print(json.dumps([asdict(run) for run in runs]), flush=True)  # noqa: T201 - the test reads it


def _runs(story: Story, plan: Plan, folder: Path) -> Iterator[Run]:
    unharmed = 0
    for kills in _kills(plan):
        run = _run(story, kills, plan.url, folder)
        yield run
        unharmed += run.killed_at[0] is None
        if run.failure is not None or unharmed == _UNHARMED:
            return


def _kills(plan: Plan) -> Iterator[list[int]]:
    """Yield where to kill the processes of each run, for ever."""
    for number in count(plan.first, plan.every):
        if not plan.second_places:
            yield [number]
        for second in range(plan.second_places):
            yield [number, 1 + (number * _SECOND_STRIDE + second) % SECOND_PLACES]


def _run(story: Story, kills: list[int], url: str | None, parent: Path) -> Run:
    folder = parent / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    url = url or f"sqlite:///{folder / 'events.db'}"
    empty(url)
    signal.alarm(_HANGS_AFTER_S)
    killed_at: list[str | None] = []
    for number in kills:
        points = Points(number, folder / "killed")
        status = _end_of_child(lambda: _live_watched(story, url, folder, points), folder / "said")  # noqa: B023
        killed_at.append((folder / "killed").read_text() if status == KILLED else None)
        if status not in {0, KILLED}:
            return Run(story.name, kills, killed_at, f"exit status {status}:\n{(folder / 'said').read_text()}")
    failure = None
    try:
        asyncio.run(live(story, url, folder, Points(None, folder / "killed")))
        check_end(story, url, folder)
    except (AssertionError, FtactorsError):
        failure = traceback.format_exc()
    signal.alarm(0)
    return Run(story.name, kills, killed_at, failure)


def _live_watched(story: Story, url: str, folder: Path, points: Points) -> None:
    points.watch()
    asyncio.run(live(story, url, folder, points))


def _warm_up(folder: Path) -> None:
    """Have this process import and compile all that its children will need, so that they need not."""
    _run(STORIES[0], [], None, folder)
    gc.collect()
    gc.freeze()  # what the collector does not look at is not copied


def _end_of_child(act: Callable[[], None], said: Path) -> int:
    """Return the exit status of a process that acts, and whose words go to a file."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        words = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(words, 1)
        os.dup2(words, 2)
        signal.alarm(_HANGS_AFTER_S)  # the parent's is not inherited
        act()
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
