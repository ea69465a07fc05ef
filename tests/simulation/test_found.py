"""What the state machine has found, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftactors.core.phases import Phase
from ftactors.core.seen import ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.work import Report
from ftactors.log.errors import LogTakenError
from tests.core.histories import JOB, submitted
from tests.simulation.script import words_of
from tests.simulation.world import World

PREPARING = ProcessKey(JOB, 1, 0)


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which a service has started."""
    with World() as world:
        world.begin()
        world.call("start", ServiceConfig(), "someone", by_owner=True)
        world.settle()
        yield world


def test_a_scheduler_that_does_not_know_yet_that_another_took_its_log_kills_none_of_the_others_trainers(world: World):
    old = world.life
    world.begin()
    world.settle()

    world.call("submit", submitted())
    world.settle()  # the old one sees a trainer of which its log knows nothing
    world.pass_time(10.0)

    assert world.cluster.trainers[PREPARING].work is not None
    assert old.scheduler is not None
    assert isinstance(old.scheduler.log.refusal, LogTakenError)


def test_a_trainer_that_is_gone_keeps_no_scheduler_busy_that_cannot_look_at_the_cluster(world: World):
    world.call("submit", submitted())
    world.settle()
    world.cluster.reachable = False
    world.die(PREPARING)

    world.settle()  # raises where there is no rest

    assert world.life.scheduler is not None
    assert world.life.scheduler.state.jobs[JOB].phase is Phase.PREPARING


def test_a_trainer_that_tells_an_old_report_again_keeps_no_scheduler_busy(world: World):
    world.call("submit", submitted())
    world.settle()
    world.speak(PREPARING)
    world.settle()
    world.call("cancel", JOB, "request", "someone")
    trainer = world.cluster.trainers[PREPARING]
    assert trainer.work is not None
    words = words_of(trainer.work)
    trainer.kept.extend([Report(number=2, word=words[1]), Report(number=1, word=words[0])])
    trainer.said = 2
    trainer.news.set()

    world.settle()
    world.speak(PREPARING)
    world.settle()

    assert world.life.scheduler is not None
    assert JOB in world.life.scheduler.state.finished
