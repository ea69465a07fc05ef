"""The benchmark runs, and measures what it is to measure; its numbers, taken in seconds, mean nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = {
    "log": [
        "durable append, one at a time",
        "in flight: pydantic, JSON, hash chain",
        "in flight: by a scheduler",
        "events from zero",
        "from a snapshot",
        "memory of the scheduler",
    ],
    "actor": [
        "submit through the actor, 1 driver",
        "at once",
        "list of 100 of 1,000 jobs by status, newest first",
        "kill -9 of the scheduler to the next right answer",
    ],
}


@pytest.mark.parametrize("part", ["log", pytest.param("actor", marks=pytest.mark.ray)])
def test_each_thing_is_measured_against_its_target(part, tmp_path):
    command = [sys.executable, "-m", "benchmarks.log", "--quick", "--part", part, "--directory", str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    facts, _, heading, _, *lines = done.stdout.splitlines()
    assert "eventsourcing 9" in facts
    assert "target" in heading
    assert len(lines) == len(MEASURED[part])
    for line, what in zip(lines, MEASURED[part], strict=True):
        assert what in line
        assert line.endswith((" met     |", " met |", "NOT met |"))
    assert list(tmp_path.iterdir()) == []


def test_decisions_are_measured_with_reservation_and_preemption_going_on():
    command = [sys.executable, "-m", "benchmarks.placement", "--quick"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[4:]
    assert ["reservation" in line for line in lines] == [False, True, False]
    assert ["preemption" in line for line in lines] == [False, False, True]
    assert all("decision with 200 waiting jobs on 64 devices, p99" in line for line in lines)
