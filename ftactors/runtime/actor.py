"""The scheduler actor: where log, cluster, scheduler and desk are put together."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import ray

import ftactors
from ftactors.core.errors import FtactorsError, LogRefusedError
from ftactors.core.events import LogOpened
from ftactors.core.service_config import ServiceConfig
from ftactors.log.urls import storage_at
from ftactors.runtime.cluster import RayCluster, cluster_id
from ftactors.runtime.desk import Desk
from ftactors.runtime.scheduler import Scheduler

NAME = "scheduler"
_LOG = logging.getLogger(__name__)
_LOCK_WAIT_S = 30.0
"""A scheduler that was killed may hold the log for a moment longer."""


def log_url(config: ServiceConfig) -> str:
    """Return the URL of the event log's database."""
    return config.log_url or f"sqlite:///{Path(config.state_dir).expanduser().resolve() / 'events.db'}"


class SchedulerActor:
    """The Ray actor around the scheduler. Its constructor only schedules the opening, and never raises.

    Args:
        config: Where the log is, and the namespace; the rules in force are those of the log.
    """

    def __init__(self, config: ServiceConfig) -> None:
        logging.basicConfig(level=logging.INFO)
        self._config = config
        self._refusal: FtactorsError | None = None
        self._opened = asyncio.Event()
        self._scheduler = Scheduler(
            storage_at(log_url(config), timeout_s=_LOCK_WAIT_S),
            RayCluster(config.namespace, orphan_timeout_s=config.orphan_timeout_seconds),
            on_fatal=_die,
        )
        self._desk = Desk(self._scheduler, pid=os.getpid())
        self._life = asyncio.get_running_loop().create_task(self._live())
        self._life.add_done_callback(_die_of_a_bug)

    def __repr__(self) -> str:
        """Return what Ray's dashboard and logs show."""
        return f"ftactors.Scheduler(log={log_url(self._config)}, epoch={self._scheduler.state.epoch})"

    async def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Return the desk's answer, once the log is open.

        Raises:
            LogRefusedError: the log is not ours to write; the message says why.
            FtactorsError: whatever the desk raises.
        """
        await self._opened.wait()
        if self._refusal is not None:
            raise self._refusal
        return await getattr(self._desk, method)(*args, **options)

    async def close(self) -> None:
        """Give the log back; nothing can be asked after it."""
        self._refusal = self._refusal or LogRefusedError("this scheduler was stopped")
        self._life.cancel()
        await self._scheduler.close()

    async def _live(self) -> None:
        try:
            await self._scheduler.open(_opening(self._config))
        except FtactorsError as error:
            _LOG.exception("the log cannot be opened")
            self._refusal = error
            return
        finally:
            self._opened.set()
        await self._scheduler.run()
        self._refusal = self._scheduler.log.refusal


def _opening(config: ServiceConfig) -> LogOpened:
    context = ray.get_runtime_context()
    return LogOpened(
        cluster_id=cluster_id(),
        namespace=config.namespace,
        actor_id=context.get_actor_id() or "",
        node_id=context.get_node_id(),
        pid=os.getpid(),
        version=ftactors.__version__,
    )


def _die(error: BaseException) -> None:
    """End this process: Ray starts the actor again, and replay decides what is true."""
    _LOG.critical("the scheduler ends itself, to be started again: %s", error, exc_info=error)
    logging.shutdown()
    os._exit(1)


def _die_of_a_bug(life: asyncio.Task[None]) -> None:
    if not life.cancelled() and (error := life.exception()) is not None:
        _die(error)
