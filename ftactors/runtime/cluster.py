"""Every Ray call that the scheduler makes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray._private import worker as ray_worker  # the only place that knows the cluster's id
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ftactors.core.errors import StaleReportError
from ftactors.core.needs import WHOLE
from ftactors.core.seen import Process, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command, Kill, Start, Stop
from ftactors.core.work import Report
from ftactors.runtime.described import Described
from ftactors.runtime.node_agent import is_agent
from ftactors.runtime.nodes import Nodes
from ftactors.runtime.protocol import ProcessGoneError
from ftactors.runtime.trainer_actor import TrainerActor

_LOG = logging.getLogger(__name__)
_PREFIX = "ft-"
_GIB = 2**30
_DELETION_S = 60.0
"""How long a trainer may take to delete checkpoints before it is killed."""
_LEAVE_S = 5.0
"""How long agents are waited for when they are told to leave."""
_ANSWER_S = 1.0
"""How long a look waits for trainers; one that answers later shows in the next."""


def name_of(key: ProcessKey) -> str:
    """Return the name of a trainer actor."""
    return f"{_PREFIX}{key.job_id}-{key.attempt}-{key.rank}"


def key_of(name: str) -> ProcessKey | None:
    """Return the key of a trainer actor's name; None for any other name."""
    job_id, _, rest = name.removeprefix(_PREFIX).rpartition("-")
    job_id, _, attempt = job_id.rpartition("-")
    if not name.startswith(_PREFIX) or not job_id or not attempt.isdecimal() or not rest.isdecimal():
        return None
    return ProcessKey(job_id, int(attempt), int(rest))


def cluster_id() -> str:
    """Return an id that a cluster keeps for as long as its control store lives, and no other cluster has."""
    control_store: Any = ray_worker.global_worker.gcs_client  # type: ignore[attr-defined]  # it is set once connected
    return str(control_store.cluster_id.hex())


class RayCluster:
    """The Ray cluster that this process is connected to.

    Args:
        namespace: Where trainer actors are named.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._nodes = Nodes()
        self._wake: Callable[[], None] = lambda: None
        self._handles: dict[ProcessKey, Any] = {}
        self._asked: dict[ProcessKey, asyncio.Task[Process]] = {}
        """Questions that have not been answered yet."""
        self._answers: dict[ProcessKey, Process] = {}
        self._answered_at: dict[ProcessKey, float] = {}
        self._never_made: dict[ProcessKey, Process] = {}
        """Actors that Ray refused to make, with the reason."""
        self._absent_before: frozenset[ProcessKey] = frozenset()
        self._acknowledged: dict[ProcessKey, asyncio.Task[None]] = {}
        """Last acknowledgements that have not arrived yet."""
        self._running: dict[tuple[type[Command], ProcessKey], asyncio.Task[None]] = {}

    def on_change(self, wake: Callable[[], None]) -> None:
        """Have `wake` called on the event loop whenever a look would show something new."""
        self._wake = wake

    async def look(self, *, as_of_seq: int, expected: Collection[ProcessKey]) -> Seen:
        """Look at the cluster; incomplete where Ray does not answer."""
        await self._starts_settled()
        self._never_made = {key: dead for key, dead in self._never_made.items() if key in expected}
        try:
            processes = self._never_made | await self._describe(await asyncio.to_thread(self._find))
            # Last: of a trainer that died with its node, the node's death is told.
            nodes, could_add = await asyncio.to_thread(lambda: (self._nodes.there(), self._nodes.could_add()))
        except (RayError, ConnectionError, GetTimeoutError) as error:
            _LOG.warning("the cluster cannot be looked at: %s", error)
            return Seen(as_of_seq=as_of_seq)
        absent = frozenset(key for key in expected if key not in processes)
        missing, self._absent_before = absent & self._absent_before, absent
        return Seen(as_of_seq, complete=True, nodes=nodes, processes=processes, missing=missing, could_add=could_add)

    def execute(self, command: Command) -> None:
        """Carry a command out in the background."""
        order = (type(command), command.key)
        if order not in self._running:
            task = self._running[order] = asyncio.get_running_loop().create_task(self._execute(command))
            task.add_done_callback(lambda _: self._running.pop(order, None))

    async def reports(self, key: ProcessKey, incarnation: str, *, after: int) -> list[Report]:
        """Return the reports above number `after`, waiting for one for a while."""
        handle = self._handles.get(key)
        if handle is None:
            raise ProcessGoneError(f"trainer {name_of(key)} is not there")
        try:
            found: list[Report] = await handle.reports.remote(incarnation, after)
        except ActorDiedError as error:
            self._set_dead(key)
            raise ProcessGoneError(f"trainer {name_of(key)} died") from error
        except (RayTaskError, StaleReportError) as error:
            raise ProcessGoneError(f"trainer {name_of(key)} is another one now") from error
        except RayActorError:  # unreachable is not dead: the next look decides
            await asyncio.sleep(_ANSWER_S)
            return []
        return found

    async def acknowledge(self, key: ProcessKey, incarnation: str, number: int) -> None:
        """Tell that the reports up to `number` are in the log; one that is gone need not hear it."""
        handle = self._handles.get(key)
        if handle is None:
            return
        self._acknowledged[key] = asyncio.get_running_loop().create_task(_tell(handle, incarnation, number))
        await asyncio.wait([self._acknowledged[key]])
        del self._acknowledged[key]

    async def rest(self) -> None:
        """Have the agents of all nodes leave, and their templates with them, unless a trainer needs them again."""
        try:
            await self._end_agents()
        except (RayError, ConnectionError) as error:
            _LOG.warning("the agents of the nodes could not be ended, and go when nobody has needed them: %s", error)

    async def close(self) -> None:
        """Stop what goes on in the background; processes stay."""
        tasks = [*self._running.values(), *self._asked.values(), *self._acknowledged.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _starts_settled(self) -> None:
        """Wait for actors that are being made: none may come up unseen after a look that missed it."""
        starts = [task for (kind, _), task in self._running.items() if kind is Start]
        if starts:
            await asyncio.wait(starts)

    async def _end_agents(self) -> None:
        agents = await asyncio.to_thread(self._agents)
        leaving = [asyncio.get_running_loop().create_task(_leave(agent)) for agent in agents]
        if leaving:  # one that a child keeps goes when that has died
            _, late = await asyncio.wait(leaving, timeout=_LEAVE_S)
            for task in late:
                task.cancel()

    def _agents(self) -> list[Any]:
        found = []
        for name in filter(is_agent, self._names()):
            with suppress(ValueError):  # it has gone since it was listed
                found.append(ray.get_actor(name, namespace=self._namespace))
        return found

    def _names(self) -> list[str]:
        """Return the names of all actors in the namespace."""
        actors = ray.util.list_named_actors(all_namespaces=True)
        return [actor["name"] for actor in actors if actor["namespace"] == self._namespace]

    def _find(self) -> dict[ProcessKey, Any]:
        """Return the handles of all trainer actors that have a name now."""
        keys = {key for name in self._names() if (key := key_of(name))}
        for key in keys:
            if key not in self._handles:
                try:
                    self._handles[key] = ray.get_actor(name_of(key), namespace=self._namespace)
                except ValueError:  # it died since it was listed
                    continue
        for gone in self._handles.keys() - keys:
            del self._handles[gone]
        return dict(self._handles)

    async def _describe(self, handles: dict[ProcessKey, Any]) -> dict[ProcessKey, Process]:
        """Return what each trainer says of itself; for one that does not answer in time, what it said last."""
        self._forget_all_but(handles)
        loop = asyncio.get_running_loop()
        asked_now = {key: loop.create_task(_ask(handle)) for key, handle in handles.items() if key not in self._asked}
        self._asked |= asked_now
        if asked_now:  # those that an earlier look has waited for wake the scheduler when they answer
            await asyncio.wait(asked_now.values(), timeout=_ANSWER_S)
        for key in [key for key, task in self._asked.items() if task.done()]:
            self._answers[key], self._answered_at[key] = self._asked.pop(key).result(), loop.time()
        for task in asked_now.values():
            if not task.done():
                task.add_done_callback(lambda _: self._wake())
        return {key: self._last_answer(key, loop.time()) for key in handles}

    def _forget_all_but(self, handles: Collection[ProcessKey]) -> None:
        """Forget what was said by trainers that are gone: another one may be made with the same name."""
        for gone in self._asked.keys() - set(handles):
            self._asked.pop(gone).cancel()
        for gone in self._answers.keys() - set(handles):
            del self._answers[gone]
            self._answered_at.pop(gone, None)

    def _last_answer(self, key: ProcessKey, now: float) -> Process:
        """Return what a trainer said last; one that no longer answers is as quiet as it is silent."""
        answer = self._answers.get(key, Process(state="starting"))
        silent_s = now - self._answered_at[key] if key in self._asked and key in self._answered_at else 0.0
        return replace(answer, quiet_s=answer.quiet_s + silent_s)

    def _set_dead(self, key: ProcessKey) -> None:
        self._answers[key] = Process(state="dead")
        self._wake()

    async def _execute(self, command: Command) -> None:
        try:
            await self._carry_out(command)
        except (RayError, StaleReportError) as error:  # the level is looked at again, and the command given again
            _LOG.info("%s of %s did not work: %s", type(command).__name__, name_of(command.key), error)
            return
        if isinstance(command, Start | Kill):  # the others show in what the trainer says
            self._wake()

    async def _carry_out(self, command: Command) -> None:
        handle = self._handles.get(command.key)
        match command:
            case Start():
                await asyncio.to_thread(self._start, command)
            case Begin() if handle is not None:
                await handle.begin.remote(command.incarnation, command.work)
            case Stop() if handle is not None:
                await handle.stop.remote(command.incarnation, command.grace_s, command.save)
            case Kill() if handle is not None:
                if command.key in self._acknowledged:  # it deletes what it may delete now
                    await asyncio.wait([self._acknowledged[command.key]], timeout=_DELETION_S)
                await asyncio.to_thread(ray.kill, handle, no_restart=True)

    def _start(self, command: Start) -> None:
        placed, key = command.placed, command.key
        options: dict[str, Any] = {
            "name": name_of(key),
            "namespace": self._namespace,
            "lifetime": "detached",
            "max_restarts": 0,
            "num_cpus": placed.cpus,
            "num_gpus": placed.gpu_thousandths / WHOLE,
            "max_concurrency": 100,
        }
        if placed.mem_gib:
            options["memory"] = int(placed.mem_gib * _GIB)
        if placed.node_id is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(placed.node_id, soft=False)
        if command.accelerator_type is not None:
            options["accelerator_type"] = command.accelerator_type
        try:
            self._handles[key] = (
                ray.remote(TrainerActor)
                .options(**options)
                .remote(
                    key.job_id,
                    key.attempt,
                    key.rank,
                    orphan_timeout_s=command.orphan_timeout_s,
                    world_size=command.world_size,
                    namespace=self._namespace,
                )
            )
        except ValueError as error:
            if not self._exists(key):
                _LOG.warning("trainer %s cannot be made: %s", name_of(key), error)
                self._never_made[key] = Process(state="dead", why=str(error))

    def _exists(self, key: ProcessKey) -> bool:
        try:
            ray.get_actor(name_of(key), namespace=self._namespace)
        except ValueError:
            return False
        return True


async def _leave(agent: Any) -> None:
    with suppress(RayError):  # it is gone: that is the answer of one that leaves
        await agent.leave.remote()


async def _ask(handle: Any) -> Process:
    try:
        found: Described = await handle.describe.remote()
    except ActorDiedError as error:
        return Process(state="dead", why=str(error))
    except RayError:  # unreachable is not dead
        return Process(state="starting")
    return Process(
        state="up",
        node_id=found.node_id,
        devices=found.devices,
        pid=found.pid,
        incarnation=found.incarnation,
        begun=found.begun,
        quiet_s=found.quiet_s,
        address=found.address,
        failed=found.failed,
    )


async def _tell(handle: Any, incarnation: str, number: int) -> None:
    with suppress(RayError):
        await handle.acknowledge.remote(incarnation, number)
