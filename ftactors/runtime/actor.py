"""The scheduler actor: where log, cluster, scheduler and desk are put together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import ray

import ftactors
from ftactors.core.errors import FtactorsError, ServiceUnavailableError
from ftactors.core.events import LogOpened
from ftactors.core.service_config import ServiceConfig
from ftactors.core.urls import without_password
from ftactors.log.beside import Owner
from ftactors.log.errors import LogDamagedError, LogTakenError, LogTooNewError
from ftactors.log.snapshots import SnapshotFile, snapshot_path
from ftactors.log.urls import storage_at
from ftactors.runtime.cluster import RayCluster, cluster_id
from ftactors.runtime.desk import Desk
from ftactors.runtime.log_desk import LogDesk
from ftactors.runtime.scheduler import Scheduler

NAME = "scheduler"
_LOG = logging.getLogger(__name__)
_LOCK_WAIT_S = 30.0
"""A scheduler that was killed may hold the log for a moment longer."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 2.0, 60.0
READABLE = (LogDamagedError, LogTooNewError)
"""The refusals in which what was folded is sound, and can be read."""
FINAL = (*READABLE, LogTakenError)
"""The refusals that no waiting will end."""


Make = Callable[[ServiceConfig], tuple[Scheduler, LogOpened]]


def log_url(config: ServiceConfig) -> str:
    """Return the URL of the event log's database."""
    return config.log_url or f"sqlite:///{Path(config.state_dir).expanduser().resolve() / 'events.db'}"


def is_served(config: ServiceConfig) -> bool:
    """Return whether the event log is kept by a database server, so that the scheduler can run on any node."""
    return not log_url(config).startswith("sqlite:")


class SchedulerActor:
    """The Ray actor around the scheduler. Its constructor only schedules the opening, and never raises.

    A log that cannot be reached, or is held, is tried again; meanwhile every call is answered with the reason. One that
    is damaged, or too new, is not: what was folded of it can be read, and nothing is written. One that another
    scheduler has taken is not either, and nothing is answered: what is known here is of the past.

    Args:
        config: Where the log is, and the namespace; the rules in force are those of the log.
        make: Returns a scheduler that is not open yet, and the fact of its opening.
    """

    def __init__(self, config: ServiceConfig, make: Make | None = None) -> None:
        logging.basicConfig(level=logging.INFO)
        self._config = config
        self._make = make or _on_ray
        self._scheduler: Scheduler | None = None
        self._desk: Desk | None = None
        self._log_desk: LogDesk | None = None
        self._refusal: FtactorsError | None = None
        self._tried = asyncio.Event()
        """Set once the log was opened, or could not be."""
        self._life = asyncio.get_running_loop().create_task(self._live())
        self._life.add_done_callback(_die_of_a_bug)

    def __repr__(self) -> str:
        """Return what Ray's dashboard and logs show."""
        epoch = self._scheduler.state.epoch if self._scheduler else "none"
        return f"ftactors.Scheduler(log={without_password(log_url(self._config))}, epoch={epoch})"

    async def ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Return the desk's answer, once the log is open.

        Raises:
            LogRefusedError: the log is not ours to write; the message says why.
            LogFullError: its disk has no room.
            FtactorsError: whatever the desk raises.
        """
        await self._tried.wait()
        refusal = self._refusal
        is_of_log = method.startswith("log_")
        is_readable = isinstance(refusal, READABLE) and (is_of_log or method in Desk.READS)
        if self._desk is None or self._log_desk is None or (refusal is not None and not is_readable):
            raise copy(refusal) if refusal else ServiceUnavailableError("the scheduler is not open yet")
        return await getattr(self._log_desk if is_of_log else self._desk, method)(*args, **options)

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
            if isinstance(self._refusal, FINAL):
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_RETRY_S)
        if self._scheduler is not None:
            await self._scheduler.run()
            self._refusal = self._scheduler.log.refusal

    async def _open(self) -> bool:
        """Open the log; return whether that worked, with the reason in `_refusal` where it did not."""
        scheduler: Scheduler | None = None
        try:
            scheduler, opened = self._make(self._config)
            await scheduler.open(opened)
        except FtactorsError as error:
            _LOG.exception("the log cannot be opened")
            self._refusal = error
            if isinstance(error, READABLE) and scheduler is not None:
                self._seat(scheduler)
            elif scheduler is not None:
                await scheduler.close()
            return False
        else:
            self._refusal = None
            self._seat(scheduler)
            return True
        finally:
            self._tried.set()

    def _seat(self, scheduler: Scheduler) -> None:
        """Let the desks answer from this scheduler."""
        self._scheduler, self._desk = scheduler, Desk(scheduler, pid=os.getpid())
        self._log_desk = LogDesk(scheduler.log, scheduler.changed)


def _on_ray(config: ServiceConfig) -> tuple[Scheduler, LogOpened]:
    """Return the scheduler of the Ray cluster that this actor runs on."""
    context, url = ray.get_runtime_context(), log_url(config)
    actor_id = context.get_actor_id() or ""
    owner = Owner(actor_id, cluster_id(), config.namespace)
    storage = storage_at(url, timeout_s=_LOCK_WAIT_S, owner=owner)
    snapshots = SnapshotFile(snapshot_path(url, Path(config.state_dir).expanduser().resolve()))
    opened = LogOpened(
        cluster_id=cluster_id(),
        namespace=config.namespace,
        actor_id=actor_id,
        node_id=context.get_node_id(),
        pid=os.getpid(),
        version=ftactors.__version__,
    )
    return Scheduler(storage, RayCluster(config.namespace), on_fatal=_die, snapshots=snapshots), opened


def _die(error: BaseException) -> None:
    """End this process: Ray starts the actor again, and replay decides what is true."""
    _LOG.critical("the scheduler ends itself, to be started again: %s", error, exc_info=error)
    logging.shutdown()
    os._exit(1)


def _die_of_a_bug(life: asyncio.Task[None]) -> None:
    if not life.cancelled() and (error := life.exception()) is not None:
        _die(error)
