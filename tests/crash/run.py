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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ftactors.core.errors import FtactorsError
from tests.crash.life import check_end, empty, live
from tests.crash.points import KILLED, NOWHERE, Place, Points
from tests.crash.stories import STORIES, Story

_HANGS_AFTER_S = 60


@dataclass(frozen=True)
class Plan:
    """Which runs of a story to make.

    Args:
        story: Its name.
        kills: For each run, where its processes are killed, one after another; the last one never is.
        url: A database that is emptied for each run; None: an SQLite file in the run's folder.
    """

    story: str
    kills: list[list[Place]]
    url: str | None = None


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    story: str
    kills: list[Place]
    killed_at: list[str | None]
    """The names of the places at which processes were killed; None where one came to its end."""
    crossed: list[Place]
    """All places of the last process that was to be killed and was not."""
    failure: str | None = None
    """What the process that broke a promise had to say."""


def main(folder: Path) -> None:
    """Make the runs of each plan."""
    faulthandler.register(signal.SIGALRM, chain=True)  # who hangs says where, and ends
    stories = {story.name: story for story in STORIES}
    _warm_up(folder)
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        kills = [[Place(*place) for place in places] for places in plan.kills]
        runs = [_run(stories[plan.story], places, plan.url, folder) for places in kills]
        print(json.dumps([asdict(run) for run in runs]), flush=True)  # noqa: T201 - the test reads it


def _run(story: Story, kills: list[Place], url: str | None, parent: Path) -> Run:
    folder = parent / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    url = url or f"sqlite:///{folder / 'events.db'}"
    empty(url)
    signal.alarm(_HANGS_AFTER_S)
    killed_at: list[str | None] = []
    crossed, said, killed = folder / "crossed", folder / "said", folder / "killed"
    for place in kills:
        points = Points(place, killed)
        child = forked(lambda: _live_watched(story, url, folder, points), said)  # noqa: B023 - called at once
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed_at.append(killed.read_text() if status == KILLED else None)
        if status not in {0, KILLED}:
            return Run(story.name, kills, killed_at, [], f"exit status {status}:\n{said.read_text()}")
    failure = None
    try:
        asyncio.run(live(story, url, folder, Points(NOWHERE, killed)))
        check_end(story, url, folder)
    except (AssertionError, FtactorsError):
        failure = traceback.format_exc()
    signal.alarm(0)
    places = [Place(*place) for place in json.loads(crossed.read_text())] if crossed.exists() else []
    return Run(story.name, kills, killed_at, places, failure)


def _live_watched(story: Story, url: str, folder: Path, points: Points) -> None:
    points.watch()
    asyncio.run(live(story, url, folder, points))
    (folder / "crossed").write_text(json.dumps(points.places()))


def _warm_up(folder: Path) -> None:
    """Have this process import and compile all that its children will need, so that they need not."""
    _run(STORIES[0], [], None, folder)
    gc.collect()
    gc.freeze()  # what the collector does not look at is not copied


def forked(act: Callable[[], None], said: Path) -> int:
    """Return the id of a process that acts and then ends, and whose words go to a file."""
    process = os.fork()
    if process:
        return process
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
