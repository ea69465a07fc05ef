"""Two schedulers at once on PostgreSQL: one is stopped at any place, another takes the log, and the first one wakes.

Every acknowledged event is there exactly once, there is one history, and the first one refuses and names the owner. In
CI it is stopped at each place from its first write on; `pytest -m long tests/crash/test_two_schedulers.py` stops it in
its opening, too, which keeps the other waiting for seconds, and tells more stories, in some minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.points import NOWHERE, Place
from tests.crash.run import Plan
from tests.crash.stopped import Woken
from tests.crash.test_crash_points import Teller
from tests.postgres import PostgresServer

STORIES = ["a_job_is_prepared_trained_and_published", "a_cancel_races_the_published_model"]


_WRITE = "WITH moved AS"


def woken(tmp_path: Path, postgres: PostgresServer, story: str, *, opening: bool) -> list[Woken]:
    """Return what came of a scheduler that was stopped at each place of a story, those of its opening or not."""
    with postgres.fresh() as database:
        url = postgres.url(database)
        teller = Teller(tmp_path / "places")
        teller.ask(Plan(story, [[NOWHERE]], url))
        [run] = teller.answer()
        teller.close()
        places = [Place(*place) for place in run.crossed]
        if not opening:
            places = places[next(at for at, place in enumerate(places) if place.name.startswith(_WRITE)) :]
        command = [sys.executable, "-m", "tests.crash.stopped", str(tmp_path / "runs"), url, story]
        told = subprocess.run(command, input=json.dumps(places), stdout=subprocess.PIPE, text=True, check=True).stdout
    runs = [Woken(**{**run, "place": Place(*run["place"])}) for run in json.loads(told)]
    failed = [f"stopped at {run.place}: {run.end}\n{run.failure}" for run in runs if run.failure]
    assert not failed, f"{len(failed)} of {len(runs)} runs broke a promise; the first:\n{failed[0]}"
    return runs


def check_woken(runs: list[Woken]) -> None:
    """Check that the first scheduler refused wherever it had the log, and that there were enough such places."""
    ends = Counter(run.end for run in runs if run.stopped_at is not None)
    print(f"stopped at {ends.total()} of {len(runs)} places: {dict(ends)}")  # noqa: T201 - I7
    assert set(ends) <= {"names the owner", "went on", "refused at its opening", "ended itself"}, ends
    assert ends["names the owner"] >= 0.6 * len(runs)
    opening = [run for run in runs if run.end == "went on" and run.stopped_at is not None]
    assert len(opening) <= 0.2 * len(runs), f"only who had not opened the log yet may go on, not {opening}"


@pytest.mark.parametrize("story", STORIES[:1])
def test_a_scheduler_that_wakes_after_another_took_its_log_refuses_and_names_it(
    story: str, tmp_path: Path, postgres: PostgresServer
):
    check_woken(woken(tmp_path, postgres, story, opening=False))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("story", STORIES)
def test_a_scheduler_that_wakes_anywhere_after_another_took_its_log_refuses_and_names_it(
    story: str, tmp_path: Path, postgres: PostgresServer
):
    check_woken(woken(tmp_path, postgres, story, opening=True))
