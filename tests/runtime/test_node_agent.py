"""A node's agent keeps one template for all trainer actors there; when one of them dies, nothing that trains does."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import ray
from ray.exceptions import RayActorError

from ftactors.core.work import Report, Work
from ftactors.runtime.cluster import RayCluster, key_of
from ftactors.runtime.forking import TemplateError
from ftactors.runtime.lifeline import TEMPLATE_NAME
from ftactors.runtime.node_agent import NodeAgent, agent_name, is_agent
from ftactors.runtime.trainer_actor import TrainerActor
from tests.runtime.workers import at_work_in, is_alive, until, work

pytestmark = pytest.mark.ray
COLD_S = 90.0
jobs = itertools.count(1)


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
async def begin(ray_session: str, namespace: str) -> AsyncIterator[Callable[..., Any]]:
    """Have a trainer actor begin; its agent and its template end with the test."""
    begun: list[Any] = []

    async def begin_one(task: Work) -> Any:
        job_id = f"j{next(jobs)}"
        actor = (
            ray.remote(TrainerActor)
            .options(name=f"ft-{job_id}-1-0", namespace=namespace, num_cpus=0.5, max_concurrency=100)
            .remote(job_id, 1, 0, orphan_timeout_s=3600.0, namespace=namespace)
        )
        begun.append(actor)
        incarnation = (await actor.describe.remote()).incarnation
        assert await actor.begin.remote(incarnation, task)
        described = await actor.describe.remote()
        assert (described.begun, described.ended) == (True, False)
        return actor

    yield begin_one
    for actor in begun:
        ray.kill(actor)
    await RayCluster(namespace).rest()
    await until(lambda: not agents_of(namespace) and not templates_of(namespace))


def agents_of(namespace: str) -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == namespace and is_agent(actor["name"])]


def templates_of(namespace: str) -> list[psutil.Process]:
    """Return the templates of a namespace's agents, and no child of them."""
    prefix = f"ftactors-{namespace}-"
    found = []
    for process in psutil.process_iter(["pid", "name", "cmdline", "status"]):
        known = process.info
        if known["name"] == TEMPLATE_NAME and known["status"] != psutil.STATUS_ZOMBIE:
            found += [process] if any(part.startswith(prefix) for part in known["cmdline"] or ()) else []
    return found


async def reports(actor: Any, until_number: int) -> list[Report]:
    found: list[Report] = []
    async with asyncio.timeout(COLD_S):
        incarnation = (await actor.describe.remote()).incarnation
        while len(found) < until_number:
            found = await actor.reports.remote(incarnation, 0)
    return found


async def at_work(directory: Path) -> int:
    async with asyncio.timeout(COLD_S):
        while len(found := at_work_in(directory)) != 1:
            await asyncio.sleep(0.02)
    return found[0]


async def stop(actor: Any) -> str:
    """Stop a trainer's work, and return its last word."""
    incarnation = (await actor.describe.remote()).incarnation
    await actor.stop.remote(incarnation, 30.0, True)
    return (await reports(actor, 2))[-1].word.type


async def the_template(namespace: str, *, after: int = 0) -> psutil.Process:
    """Return the one template, once it is another one than the one before."""
    async with asyncio.timeout(COLD_S):
        while [found.pid for found in templates_of(namespace)] in ([], [after]):
            await asyncio.sleep(0.02)
    (found,) = templates_of(namespace)
    return found


def children_of(template: psutil.Process) -> list[int]:
    return [child.pid for child in template.children()]


async def test_trainers_of_a_node_share_one_template_and_what_dies_takes_nothing_else_along(begin, namespace, tmp_path):
    one, two = [await begin(work(tmp_path / name, "Patient")) for name in ("one", "two")]
    first, second = await at_work(tmp_path / "one"), await at_work(tmp_path / "two")
    assert agents_of(namespace) == [agent_name(ray.get_runtime_context().get_node_id())]
    template = await the_template(namespace)
    assert set(children_of(template)) == {first, second}
    await reports(one, 1)

    template.kill()
    await until(lambda: not is_alive(template.pid))
    assert is_alive(first)
    template = await the_template(namespace, after=template.pid)
    assert await stop(one) == "stopped"

    agent = ray.get_actor(agents_of(namespace)[0], namespace=namespace)
    await reports(two, 1)
    ray.kill(agent)
    await until(lambda: not is_alive(template.pid))
    assert is_alive(second)
    template = await the_template(namespace, after=template.pid)  # for one that it can watch
    assert await stop(two) == "stopped"


async def test_an_actor_that_dies_after_its_nodes_agent_leaves_no_child_though_it_holds_the_interpreter(
    begin, namespace, tmp_path
):
    actor = await begin(work(tmp_path, "GilHolder"))
    child = await at_work(tmp_path)
    await reports(actor, 1)
    template, pid = await the_template(namespace), (await actor.describe.remote()).pid

    os.kill(template.parent().pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)

    await until(lambda: not is_alive(child))
    assert at_work_in(tmp_path) == []


async def test_work_that_is_stopped_while_its_template_warms_up_never_begins(begin, namespace, tmp_path):
    actor = await begin(work(tmp_path, "Talker"))
    incarnation = (await actor.describe.remote()).incarnation
    await the_template(namespace)

    await actor.stop.remote(incarnation, 30.0, True)

    assert [report.word.type for report in await reports(actor, 1)] == ["stopped"]
    described = await actor.describe.remote()
    assert (described.begun, described.ended, described.last_report) == (True, True, 1)
    assert at_work_in(tmp_path) == []


async def test_an_agent_goes_when_nobody_has_needed_it_for_a_while(ray_session, namespace):
    agent = (
        ray.remote(NodeAgent)
        .options(name="ft-agent-a", namespace=namespace, num_cpus=0)
        .remote(namespace, linger_s=0.5)
    )

    with pytest.raises(RayActorError):
        await agent.template.remote()
    await until(lambda: not templates_of(namespace))


async def test_who_asks_an_agent_that_can_have_no_template_hears_why_whatever_the_words(monkeypatch):
    monkeypatch.setattr("ftactors.runtime.node_agent._SETS", (("ftactors.no_{such}",),))
    agent = NodeAgent("test", linger_s=3600.0)
    try:
        with pytest.raises(TemplateError, match=r"No module named 'ftactors\.no_\{such\}'"):
            await asyncio.wait_for(agent.template(), COLD_S)
    finally:
        agent._end.cancel()


async def test_an_agent_that_fails_lets_nobody_wait(monkeypatch):
    monkeypatch.setattr("ftactors.runtime.node_agent._SETS", ((None,),))  # no argument for a process
    agent = NodeAgent("test", linger_s=3600.0)
    try:
        for _ in range(2):
            with pytest.raises(TemplateError, match="its agent met TypeError"):
                await asyncio.wait_for(agent.template(), COLD_S)
    finally:
        agent._end.cancel()


async def test_the_agent_of_a_template_that_died_lingers_from_then_on(monkeypatch):
    monkeypatch.setattr("ftactors.runtime.node_agent._SETS", ((),))
    namespace = f"test-{uuid4().hex[:8]}"
    agent = NodeAgent(namespace, linger_s=1e9)
    try:
        await asyncio.wait_for(agent.template(), COLD_S)
        agent._wanted_at = 0.0
        killed_at = time.monotonic()
        templates_of(namespace)[0].kill()
        await until(lambda: agent._wanted_at >= killed_at)
    finally:
        agent._life.cancel()
        agent._end.cancel()
        for template in templates_of(namespace):
            template.kill()


async def test_an_agent_leaves_when_it_is_told_to_but_not_while_its_template_has_a_child(begin, namespace, tmp_path):
    actor = await begin(work(tmp_path, "Patient"))
    child = await at_work(tmp_path)
    (name,) = agents_of(namespace)
    agent = ray.get_actor(name, namespace=namespace)
    leaving = agent.leave.remote()
    while not ray.wait([leaving], timeout=0)[0]:  # Ray may begin the two calls in either order
        await agent.template.remote()
    await leaving  # it was asked for: it stays
    assert is_alive(child)
    leaving = agent.leave.remote()

    assert await stop(actor) == "stopped"

    with pytest.raises(RayActorError):
        await leaving
    assert agents_of(namespace) == []


def test_an_agent_is_no_trainer_and_no_trainer_is_an_agent():
    assert key_of(agent_name("0123abcdef")) is None
    assert key_of(agent_name("0123456789")) is None
    assert not is_agent("ft-agent-1-0")
    assert is_agent(agent_name("0123456789"))
