"""The scheduler actor: where log, cluster, scheduler and desk are put together."""

from __future__ import annotations

import asyncio
import logging
import os
from copy import copy
from pathlib import Path
from typing import Any

import ray

import ftactors
from ftactors.core.errors import FtactorsError, ServiceUnavailableError
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
_FIRST_RETRY_S, _LONGEST_RETRY_S = 2.0, 60.0


def log_url(config: ServiceConfig) -> str:
    """Return the URL of the event log's database."""
    return config.log_url or f"sqlite:///{Path(config.state_dir).expanduser().resolve() / 'events.db'}"


class SchedulerActor:
    """The Ray actor around the scheduler. Its constructor only schedules the opening, and never raises.

    A log that cannot be opened is tried again, for its disk may get room, or its owner end; meanwhile every call is
    answered with the reason. One that is taken by another scheduler later is not: there can be only one.

    Args:
        config: Where the log is, and the namespace; the rules in force are those of the log.
    """

    def __init__(self, config: ServiceConfig) -> None:
        logging.basicConfig(level=logging.INFO)
        self._config = config
        self._scheduler: Scheduler | None = None
        self._desk: Desk | None = None
        self._refusal: FtactorsError | None = None
        self._tried = asyncio.Event()
        """Set once the log was opened, or could not be."""
        self._life = asyncio.get_running_loop().create_task(self._live())
        self._life.add_done_callback(_die_of_a_bug)

    def __repr__(self) -> str:
        """Return what Ray's dashboard and logs show."""
        epoch = self._scheduler.state.epoch if self._scheduler else "none"
        return f"ftactors.Scheduler(log={log_url(self._config)}, epoch={epoch})"

    async def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Return the desk's answer, once the log is open.

        Raises:
            LogRefusedError: the log is not ours to write; the message says why.
            LogFullError: its disk has no room.
            FtactorsError: whatever the desk raises.
        """
        await self._tried.wait()
        if self._refusal is not None or self._desk is None:
            raise copy(self._refusal) if self._refusal else ServiceUnavailableError("the scheduler is not open yet")
        return await getattr(self._desk, method)(*args, **options)

    async def close(self) -> bool:
        """Give the log back, unless the service was started again since it stopped; return whether it was given."""
        if self._refusal is None and self._scheduler is not None and self._scheduler.state.places:
            return False
        self._refusal = ServiceUnavailableError("this scheduler was stopped; start() makes another one")
        self._tried.set()
        self._life.cancel()
        if self._scheduler is not None:
            await self._scheduler.close()
        return True

    async def _live(self) -> None:
        """Open the log, however often that takes, and schedule until it refuses."""
        wait_s = _FIRST_RETRY_S
        while not await self._open():
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_RETRY_S)
        if self._scheduler is not None:
            await self._scheduler.run()
            self._refusal = self._scheduler.log.refusal

    async def _open(self) -> bool:
        """Open the log; return whether that worked, with the reason in `_refusal` where it did not."""
        scheduler: Scheduler | None = None
        try:
            storage = storage_at(log_url(self._config), timeout_s=_LOCK_WAIT_S)
            scheduler = Scheduler(storage, RayCluster(self._config.namespace), on_fatal=_die)
            await scheduler.open(_opening(self._config))
        except FtactorsError as error:
            _LOG.exception("the log cannot be opened")
            self._refusal = error
            if scheduler is not None:
                await scheduler.close()
            return False
        else:
            self._scheduler, self._desk, self._refusal = scheduler, Desk(scheduler, pid=os.getpid()), None
            return True
        finally:
            self._tried.set()


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
