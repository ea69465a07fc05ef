"""A trainer actor does the work of its claim and of no other, and keeps its reports until they are acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from ftactors.core.errors import StaleReportError
from ftactors.core.work import Failed, Report, StageBegun, Stopped, Work
from ftactors.runtime.described import Described
from ftactors.runtime.trainer_actor import TrainerActor
from tests.runtime.workers import DEADLINE_S, at_work_in, is_alive, until, work

pytestmark = pytest.mark.ray
jobs = itertools.count(1)


@pytest.fixture
def start(ray_session: str) -> Iterator[Callable[..., Any]]:
    started = []

    def start_one(*, num_gpus: float = 0.0, num_cpus: float = 0.5, orphan_timeout_s: float = 3600.0) -> Any:
        job_id = f"j{next(jobs)}"
        actor = (
            ray.remote(TrainerActor)
            .options(
                name=f"ft-{job_id}-1-0",
                lifetime="detached",
                max_restarts=0,
                num_gpus=num_gpus,
                num_cpus=num_cpus,
                max_concurrency=100,
            )
            .remote(job_id, 1, 0, orphan_timeout_s=orphan_timeout_s)
        )
        started.append(actor)
        return actor

    yield start_one
    for actor in started:
        ray.kill(actor)


async def describe(actor: Any) -> Described:
    described = await actor.describe.remote()
    assert isinstance(described, Described)
    return described


async def begin(actor: Any, task: Work) -> str:
    incarnation = (await describe(actor)).incarnation
    assert await actor.begin.remote(incarnation, task) is True
    return incarnation


async def pull(actor: Any, incarnation: str, after: int, until_number: int) -> list[Report]:
    """Pull as the scheduler does, until a report of this number is there."""
    reports: list[Report] = []
    async with asyncio.timeout(DEADLINE_S):
        while after < until_number:
            reports += await actor.reports.remote(incarnation, after)
            after = reports[-1].number
    return reports


async def has_ended(actor: Any) -> Described:
    async with asyncio.timeout(DEADLINE_S):
        while not (described := await describe(actor)).ended:
            await asyncio.sleep(0.01)
    return described


async def is_dead(actor: Any) -> bool:
    """Ask; being asked what it is does not keep an orphan alive."""
    try:
        await describe(actor)
    except (ActorDiedError, ActorUnavailableError):
        return True
    return False


async def has_exited(actor: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await is_dead(actor):
            await asyncio.sleep(0.1)


async def test_work_is_done_once_and_its_reports_wait_until_they_are_acknowledged(start, tmp_path):
    actor, task = start(num_gpus=0.5), work(tmp_path, "Talker")
    empty = await describe(actor)
    assert (empty.attempt, empty.rank) == (1, 0)
    assert (empty.begun, empty.ended, empty.last_report, empty.quiet_s) == (False, False, 0, 0.0)
    assert len(empty.devices) == 1
    assert list(tmp_path.iterdir()) == []

    assert [await actor.begin.remote(empty.incarnation, task) for _ in range(3)] == [True] * 3

    reports = await pull(actor, empty.incarnation, after=0, until_number=5)
    assert [(report.number, report.word.type) for report in reports] == list(
        enumerate(["stage_begun", "progress", "progress", "progress", "published"], start=1)
    )
    again = await actor.reports.remote(empty.incarnation, 4)
    assert again == reports[4:]
    ended = await has_ended(actor)
    assert (ended.begun, ended.last_report, ended.quiet_s) == (True, 5, 0.0)
    assert ended.incarnation == empty.incarnation


async def test_a_pruned_checkpoint_is_deleted_when_the_report_of_it_is_acknowledged_and_no_earlier(start, tmp_path):
    actor = start()
    incarnation = await begin(actor, work(tmp_path, "Saver"))
    first, second = (tmp_path / "attempts" / "1" / "checkpoints" / f"step-{step}" for step in (1, 2))
    await has_ended(actor)

    await actor.reports.remote(incarnation, 1)
    assert (first.exists(), second.exists()) == (True, True)

    await actor.acknowledge.remote(incarnation, 2)
    assert (first.exists(), second.exists()) == (False, True)
    with pytest.raises(StaleReportError):
        await actor.acknowledge.remote("another", 3)


async def test_another_incarnation_begins_nothing_hears_nothing_and_stops_nothing(start, tmp_path):
    actor = start()

    assert await actor.begin.remote("another", work(tmp_path, "Patient")) is False
    await actor.stop.remote("another", 0.0, False)
    with pytest.raises(StaleReportError, match="reports of incarnation another were asked for"):
        await actor.reports.remote("another", 0)

    assert not (await describe(actor)).begun


async def test_work_is_stopped_with_a_checkpoint_while_a_pull_is_pending(start, tmp_path):
    actor = start()
    incarnation = await begin(actor, work(tmp_path, "Patient"))
    await pull(actor, incarnation, after=0, until_number=1)
    pending = actor.reports.remote(incarnation, 1)

    await actor.stop.remote(incarnation, 30.0, True)

    assert await pending == [Report(number=2, word=Stopped(clean=True))]


async def test_work_that_was_stopped_before_it_began_never_begins(start, tmp_path):
    actor, task = start(), work(tmp_path, "Talker")
    incarnation = (await describe(actor)).incarnation

    await actor.stop.remote(incarnation, 30.0, True)

    assert await actor.begin.remote(incarnation, task) is True
    assert await pull(actor, incarnation, after=0, until_number=1) == [Report(number=1, word=Stopped(clean=True))]
    described = await describe(actor)
    assert (described.begun, described.ended, described.last_report) == (True, True, 1)
    assert list(tmp_path.iterdir()) == []


async def test_an_actor_answers_while_its_child_holds_the_interpreter_and_can_kill_it(start, tmp_path):
    actor = start()
    incarnation = await begin(actor, work(tmp_path, "GilHolder"))
    ((number, word),) = [
        (report.number, report.word) for report in await pull(actor, incarnation, after=0, until_number=1)
    ]
    assert (number, type(word)) == (1, StageBegun)

    await actor.kill_child.remote()

    (report,) = await pull(actor, incarnation, after=1, until_number=2)
    assert isinstance(report.word, Failed)
    assert report.word.error_type == "process_died"
    assert (await describe(actor)).ended


async def test_work_that_cannot_be_started_is_a_report(start, tmp_path):
    (tmp_path / "attempts").write_text("a file")
    actor = start()
    incarnation = await begin(actor, work(tmp_path, "Talker"))

    (report,) = await pull(actor, incarnation, after=0, until_number=1)

    assert isinstance(report.word, Failed)
    assert "NotADirectoryError" in report.word.message
    assert (await describe(actor)).ended


@pytest.mark.parametrize("how", ["SIGKILL", "ray.kill"])
async def test_a_child_that_holds_the_interpreter_dies_with_its_actor(start, tmp_path, how):
    actor = start()
    incarnation = await begin(actor, work(tmp_path, "GilHolder"))
    await pull(actor, incarnation, after=0, until_number=1)
    pid = (await describe(actor)).pid
    (child,) = at_work_in(tmp_path)

    if how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    else:
        ray.kill(actor)

    await until(lambda: not is_alive(child))


async def test_a_child_gets_as_many_threads_as_its_actor_has_cpus(start, tmp_path):
    actor, task = start(num_cpus=3), work(tmp_path, "Surroundings")
    await begin(actor, task)
    await has_ended(actor)

    log = (Path(task.attempt_dir) / "train.log").read_text().splitlines()
    assert {"OMP_NUM_THREADS '3'", "CUDA_VISIBLE_DEVICES ''"} <= set(log)


async def test_an_orphan_checkpoints_and_exits(start, tmp_path):
    actor, task = start(orphan_timeout_s=1.5), work(tmp_path, "Patient")
    await begin(actor, task)

    await has_exited(actor)

    assert '"save":true' in (Path(task.attempt_dir) / "order.json").read_text()


async def test_an_orphan_that_never_began_exits(start):
    await has_exited(start(orphan_timeout_s=0.1))


async def test_an_actor_that_is_pulled_is_no_orphan(start, tmp_path):
    actor = start(orphan_timeout_s=1.5)
    incarnation = await begin(actor, work(tmp_path, "Patient"))
    await pull(actor, incarnation, after=0, until_number=1)
    began = time.monotonic()

    while time.monotonic() - began < 2.0:
        assert len(await actor.reports.remote(incarnation, 0)) == 1
        await asyncio.sleep(0.1)

    assert not (await describe(actor)).ended
