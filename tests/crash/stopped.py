"""A scheduler is stopped at a place, another takes the log and tells the story to its end, and the first one wakes.

The two are on clusters of their own, with one log and one file of drivers' notes: what the first has acknowledged, the
other must know, and what the first still says when it wakes must be true. It is to refuse, and to name the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from ftactors.core.errors import LogRefusedError
from ftactors.log.errors import LogTakenError
from tests.crash.life import FATAL, check_end, empty, live, new_cluster
from tests.crash.points import NOWHERE, Place, Points
from tests.crash.run import forked
from tests.crash.stories import STORIES, Story

_HANGS_AFTER_S = 60
_TAKEN, _REFUSED = 79, 80
ENDS = {0: "went on", _TAKEN: "names the owner", _REFUSED: "refused at its opening", FATAL: "ended itself"}


@dataclass(frozen=True)
class Woken:
    """What came of a scheduler that was stopped."""

    place: Place
    stopped_at: str | None
    """The name of the place; None where the story came to its end before."""
    end: str
    failure: str | None = None


def main(folder: Path, url: str, name: str) -> None:
    """Tell a story, with the first scheduler stopped at each of the places that standard input names, a line each."""
    story = next(story for story in STORIES if story.name == name)
    for line in sys.stdin:
        places = [Place(*place) for place in json.loads(line)]
        woken = [_run(story, place, url, folder) for place in places]
        print(json.dumps([asdict(run) for run in woken]), flush=True)  # noqa: T201 - the test reads it


def _run(story: Story, place: Place, url: str, parent: Path) -> Woken:
    shutil.rmtree(parent, ignore_errors=True)
    first, second = parent / "first", parent / "second"
    first.mkdir(parents=True)
    second.mkdir()
    (second / "notes").symlink_to(first / "notes")
    empty(url)
    new_cluster(story, second)
    signal.alarm(_HANGS_AFTER_S)
    said, stopped_at = parent / "said", parent / "stopped"
    points = Points(place, stopped_at, end=lambda: os.kill(os.getpid(), signal.SIGSTOP))
    process = forked(lambda: _live_and_be_taken_over(story, url, first, points), said)
    _, status = os.waitpid(process, os.WUNTRACED)
    failure = None
    if os.WIFSTOPPED(status):
        try:
            asyncio.run(live(story, url, second, Points(NOWHERE, stopped_at)))
            check_end(story, url, second)
        except (AssertionError, LogRefusedError):
            failure = traceback.format_exc()
        os.kill(process, signal.SIGCONT)
        _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    end = ENDS.get(code, f"exit status {code}:\n{said.read_text()}")
    if code == _TAKEN and f"taken by pid {os.getpid()} on host" not in said.read_text():
        failure = f"it did not name the owner, pid {os.getpid()}:\n{said.read_text()}"
    if failure is None and code in ENDS and stopped_at.exists():
        try:
            check_end(story, url, first if code == 0 else second)
        except AssertionError:
            failure = traceback.format_exc()
    signal.alarm(0)
    return Woken(place, stopped_at.read_text() if stopped_at.exists() else None, end, failure)


def _live_and_be_taken_over(story: Story, url: str, folder: Path, points: Points) -> None:
    points.watch()
    try:
        asyncio.run(live(story, url, folder, points))
    except LogTakenError as error:
        _say(error)
        os._exit(_TAKEN)
    except LogRefusedError as error:
        _say(error)
        os._exit(_REFUSED)


def _say(error: LogRefusedError) -> None:
    os.write(2, f"{error}\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
