"""The agent of a node: an actor without resources that owns the node's template, and goes when nobody needs it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ftactors.runtime.forking import TemplateError
from ftactors.runtime.preload import BEYOND, NEEDED, SINGLE_THREADED
from ftactors.runtime.spawn import search_path
from ftactors.runtime.template import CHILDREN, HARMED, READY, UNFIT

LINGER_S = 60.0
_LOG = logging.getLogger(__name__)
_PREFIX = "ft-agent-"
_RETRY_S, _LOOK_S = 0.2, 1.0
_SETS = ((*NEEDED, *BEYOND), NEEDED)
"""What is loaded; the next set where a template with the one before is unfit, or dies of it."""


def agent_name(node_id: str) -> str:
    """Return the name of a node's agent."""
    return f"{_PREFIX}{node_id}"


def is_agent(name: str) -> bool:
    """Return whether a name is an agent's: a node's id has no dash, and what follows in a trainer's name has one."""
    return name.startswith(_PREFIX) and "-" not in name.removeprefix(_PREFIX)


class NodeAgent:
    """Keeps one template warm. It dies with this actor, and its children do not.

    Args:
        namespace: Where this actor is named; the template's socket is named after it.
        linger_s: How long it stays after the last child has ended, or was asked for.
    """

    def __init__(self, namespace: str, *, linger_s: float = LINGER_S) -> None:
        logging.basicConfig(level=logging.INFO)
        self._namespace, self._linger_s = namespace, linger_s
        self._children = self._times_asked = 0
        self._wanted_at = time.monotonic()
        self._news = asyncio.Event()
        """Set when there are more or fewer children, or the template is asked for."""
        self._harmful: set[str] = set()
        """The architectures that made a template unfit when it loaded them."""
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[str] = loop.create_future()
        self._life = loop.create_task(self._keep_a_template())
        self._life.add_done_callback(self._give_up)
        self._end = loop.create_task(self._exit_when_idle())

    async def template(self) -> str:
        """Return the name of the template's socket once it is warm.

        Raises:
            TemplateError: none can be had on this node; the message says why.
        """
        self._wanted_at = time.monotonic()
        self._times_asked += 1
        self._news.set()
        return await asyncio.shield(self._ready)

    async def leave(self) -> None:
        """End this actor once its template has no child; return where the template is asked for before that."""
        before = self._times_asked
        while self._children and self._times_asked == before:
            self._news.clear()
            await self._news.wait()
        if self._times_asked == before:
            os._exit(0)

    async def _keep_a_template(self) -> str:
        """Start a template whenever there is none, until none is fit; return why."""
        reason = ""
        for modules in _SETS:
            while (reason := await self._have_a_template(modules)) == "":
                _LOG.warning("the template died; what it had forked goes on, and another is started")
            _LOG.warning("no template with %s and so on: %s", modules[-1:], reason)
        return reason

    def _give_up(self, life: asyncio.Task[str]) -> None:
        """Let nobody wait for a template when there will be none."""
        if life.cancelled():
            return
        error = life.exception()
        reason = life.result() if error is None else f"its agent met {error!r}"
        _LOG.error("there will be no template: %s", reason, exc_info=error)
        if self._ready.done():
            self._ready = life.get_loop().create_future()
        self._ready.set_exception(TemplateError(f"no template can be had on this node: {reason}"))
        self._ready.exception()  # it may be that nobody asks

    async def _have_a_template(self, modules: tuple[str, ...]) -> str:
        """Have a template until it dies; return why it was never ready, nothing where it was."""
        try:
            template = await self._start(modules)
        except OSError as error:
            return f"it cannot be started: {error}"
        reason = ""
        if template.stdout is None:
            raise RuntimeError("a process was started without the pipe that was asked for")
        async for line in template.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            match word:
                case word if word == READY:
                    self._ready.set_result(rest)
                case word if word == CHILDREN:
                    self._children = int(rest)
                    self._news.set()
                    self._wanted_at = time.monotonic()
                case word if word == UNFIT:
                    reason = rest
                case word if word == HARMED:
                    self._harmful.add(rest)
        code = await template.wait()
        self._children, self._wanted_at = 0, time.monotonic()  # they will be adopted by the next
        self._news.set()
        if not self._ready.done():
            return reason or f"it ended with exit code {code} while it loaded {', '.join(modules)}"
        self._ready = asyncio.get_running_loop().create_future()
        return ""

    async def _start(self, modules: tuple[str, ...]) -> Process:
        """Start a template. The kernel kills it when this loop's thread ends, and so with the actor."""
        name = f"ftactors-{self._namespace[:40]}-{uuid4().hex}"
        command = ["-P", "-m", "ftactors.runtime.template", str(os.getpid()), name, *modules]
        command += [f"--harmful={model_type}" for model_type in sorted(self._harmful)]
        environment = os.environ | SINGLE_THREADED | {"PYTHONPATH": os.pathsep.join(search_path())}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=DEVNULL, stdout=PIPE, cwd="/", env=environment
        )

    async def _exit_when_idle(self) -> None:
        while True:
            left_s = self._wanted_at + self._linger_s - time.monotonic()
            if left_s <= 0 and not self._children:
                os._exit(0)  # no exception ends an actor from a background task; the kernel ends the template
            await asyncio.sleep(max(left_s, _LOOK_S))


async def template_of_node(namespace: str | None = None) -> str:
    """Return the name of the template of this actor's node once it is warm; its agent is made where there is none.

    Args:
        namespace: Where agents are named; None: where this actor is at home.

    Raises:
        TemplateError: there will be none; the message says why.
    """
    context = ray.get_runtime_context()
    node_id, where = context.get_node_id(), namespace or context.namespace
    while True:
        try:
            agent = await asyncio.to_thread(_agent, node_id, where)
            name: str = await agent.template.remote()
            return name
        except RayActorError:  # a name can be that of an actor that is dying
            await asyncio.sleep(_RETRY_S)
        except (RayError, ValueError) as error:
            if isinstance(error, TemplateError):
                raise
            raise TemplateError(f"the agent of this node cannot be asked: {error}") from error


def _agent(node_id: str, namespace: str) -> Any:
    return (
        ray.remote(NodeAgent)
        .options(
            name=agent_name(node_id),
            namespace=namespace,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=0,
            num_cpus=0,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(namespace)
    )
