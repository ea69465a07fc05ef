"""What the state machine has found, or reaches too seldom, each as the shortest story that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from ftactors.core.phases import Phase
from ftactors.core.seen import ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
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
    world.ground.die(PREPARING)

    world.settle()  # raises where there is no rest

    assert world.life.scheduler is not None
    assert world.life.scheduler.state.jobs[JOB].phase is Phase.PREPARING


def test_a_trainer_that_tells_an_old_report_again_keeps_no_scheduler_busy(world: World):
    world.call("submit", submitted())
    world.settle()
    world.ground.speak(PREPARING)
    world.settle()
    world.call("cancel", JOB, "request", "someone")
    trainer = world.cluster.trainers[PREPARING]
    assert trainer.work is not None
    words = words_of(trainer.work)
    trainer.kept.extend([Report(number=2, word=words[1]), Report(number=1, word=words[0])])
    trainer.said = 2
    trainer.news.set()

    world.settle()
    world.ground.speak(PREPARING)
    world.settle()

    assert world.life.scheduler is not None
    assert JOB in world.life.scheduler.state.finished


def come_to_train(world: World) -> ProcessKey:
    """Let a job come so far that its second attempt trains; return its trainer."""
    world.call("submit", submitted())
    world.settle()
    while PREPARING in world.ground.working():
        world.ground.speak(PREPARING)
        world.settle()
    world.pass_time(2.0)
    key = ProcessKey(JOB, 2, 0)
    world.ground.speak(key)
    world.settle()
    return key


def test_a_trainer_that_lives_on_where_nobody_sees_it_is_fenced_off_and_killed_once_it_is_seen(world: World):
    cut_off = come_to_train(world)
    node_id = str(world.cluster.trainers[cut_off].process.node_id)
    world.ground.cut(node_id)
    world.settle()
    world.pass_time(20.0)
    successor = ProcessKey(JOB, 3, 0)
    while cut_off in world.ground.working():  # it comes to its end, and publishes
        world.ground.speak(cut_off)
    both = [world.cluster.cut_off[cut_off].work, world.cluster.trainers[successor].work]
    world.ground.bring_back(node_id)
    world.settle()

    assert both[0] is not None
    assert both[1] is not None
    assert both[0].attempt_dir != both[1].attempt_dir
    assert cut_off not in world.cluster.trainers
    assert world.life.scheduler is not None
    job = world.life.scheduler.state.jobs[JOB]
    assert (job.phase, job.attempts, job.checkpoints) == (Phase.RUNNING, 3, ())


def test_a_node_that_is_cut_off_for_so_short_that_nobody_notices_loses_nothing(world: World):
    key = come_to_train(world)
    node_id = str(world.cluster.trainers[key].process.node_id)
    world.cluster.cut(node_id)
    world.ground.speak(key)
    world.ground.bring_back(node_id)
    world.settle()
    world.pass_time(20.0)
    while key in world.ground.working():
        world.ground.speak(key)
    world.settle()

    assert world.life.scheduler is not None
    assert world.life.scheduler.state.finished[JOB].status is JobStatus.COMPLETED
    assert [row.attempt for row in world.disk.rows if row.type == "attempt_placed"] == [1, 2]


def test_a_gang_is_not_pushed_back_for_ever_by_small_jobs_that_keep_coming(world: World):
    rules = ServiceConfig(max_concurrent_fine_tuning_jobs=8, max_wait_seconds=60)
    world.call("start", rules, "someone", by_owner=True)
    gang = submitted("gang", new_model_id="gang", resources={"num_workers": 4, "num_gpus": 1})
    small = (submitted(f"small-{number}", new_model_id=f"small-{number}") for number in count())
    for _ in range(3):
        world.call("submit", next(small))
    world.settle()
    world.call("submit", gang)
    started_after = None
    for minutes in range(30):
        world.call("submit", next(small))
        for key in world.ground.working() * 3:
            if key in world.ground.working():
                world.ground.speak(key)
        world.pass_time(20.0)
        if ProcessKey("gang", 2, 3) in world.cluster.trainers:
            started_after = minutes / 3
            break

    assert started_after is not None, "it waits for ever"
    assert started_after < 5
    placed = [row.job_id for row in world.disk.rows if row.type == "attempt_placed"]
    assert len(placed) > 8  # others went ahead meanwhile
