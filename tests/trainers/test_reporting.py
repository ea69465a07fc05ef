"""How often progress is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftactors.core.session import Stop
from ftactors.core.work import Progress, StageBegun, StopOrder
from tests.trainers.attempts import ListSession
from trainers.reporting import Reporter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _reporter(tmp_path: Path) -> tuple[Reporter, ListSession, Clock]:
    session, clock = ListSession(), Clock()
    return Reporter(session, ["loading", "training"], tmp_path, clock), session, clock


def _steps(reporter: Reporter, clock: Clock, steps: range, seconds: float) -> None:
    for step in steps:
        clock.now += seconds
        reporter.progress(step)


def _said(session: ListSession) -> list[int]:
    return [word.step for word in session.of(Progress)]


def test_fast_steps_are_said_once_a_second_and_the_last_one_always(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("training", total_steps=50)

    _steps(reporter, clock, range(1, 51), seconds=0.125)

    assert _said(session) == [8, 16, 24, 32, 40, 48, 50]


def test_many_steps_are_said_once_for_1_percent(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("training", total_steps=1000)

    _steps(reporter, clock, range(1, 35), seconds=2)

    assert _said(session) == [10, 20, 30]


def test_slow_steps_are_said_once_a_minute_before_1_percent_is_done(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("training", total_steps=100_000)

    _steps(reporter, clock, range(1, 10), seconds=20)

    assert _said(session) == [3, 6, 9]


def test_a_resumed_stage_counts_from_where_it_goes_on(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("training", total_steps=1000, step=500)

    _steps(reporter, clock, range(501, 512), seconds=2)

    assert _said(session) == [510]


def test_the_last_step_of_a_stage_that_ended_early_is_said_before_the_next_stage(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("loading", total_steps=50)
    _steps(reporter, clock, range(1, 4), seconds=0.25)

    reporter.begin("training")

    assert [type(word) for word in session.words] == [StageBegun, Progress, StageBegun]
    assert _said(session) == [3]


def test_long_work_within_a_step_says_the_last_progress_again(tmp_path: Path):
    reporter, session, clock = _reporter(tmp_path)
    reporter.begin("training", total_steps=10)
    _steps(reporter, clock, range(1, 3), seconds=2)

    for _ in range(13):
        clock.now += 10
        reporter.still_at_work()

    assert _said(session) == [1, 2, 2, 2]


def test_stages_are_numbered_within_the_plan(tmp_path: Path):
    reporter, session, _ = _reporter(tmp_path)

    reporter.begin("training", total_steps=10, warnings=["careful"])

    assert session.words == [StageBegun(stage="training", index=2, of=2, total_steps=10, warnings=("careful",))]


def test_metrics_are_lines_of_json(tmp_path: Path):
    reporter, _, _ = _reporter(tmp_path)

    reporter.line({"step": 1, "loss": 2.5})
    reporter.line({"step": 2, "loss": None})

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]


def test_an_order_to_stop_is_a_way_out(tmp_path: Path):
    reporter, session, _ = _reporter(tmp_path)
    reporter.check_stop()

    session.order = StopOrder(grace_s=1)

    with pytest.raises(Stop):
        reporter.check_stop()
