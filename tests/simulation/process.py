"""The process of a scheduler in the simulated world: what it knows, how it sees the cluster, who calls it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftactors.core.errors import FtactorsError, LogRefusedError
from ftactors.core.seen import ProcessKey, Seen
from ftactors.core.wanted import Command
from ftactors.core.work import Report
from ftactors.log.beside import Owner
from ftactors.runtime.desk import Desk
from ftactors.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.simulation.world import World

_LOG = logging.getLogger("ftactors.runtime.scheduler")


@dataclass(eq=False)
class Call:
    """A driver's call: made, and answered one day or never."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    life: Life
    answer: Any = None
    error: FtactorsError | None = None
    done: bool = False


@dataclass(eq=False)
class Life:
    """A process of a scheduler, from its start to its crash."""

    number: int
    owner: Owner
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    scheduler: Scheduler | None = None
    desk: Desk | None = None
    refusal: FtactorsError | None = None
    dead: bool = False

    @property
    def serves(self) -> bool:
        """Whether it has the log, and does not refuse."""
        return not self.dead and self.scheduler is not None and self.scheduler.log.refusal is None


class Complaints(logging.Handler):
    """Keeps the errors that the scheduler logged, but for a log that refuses."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._kept = kept
        _LOG.addHandler(self)
        _LOG.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error, unless the log refused."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, LogRefusedError):
            self._kept.append(f"{record.getMessage()}: {error!r}")

    def end(self) -> None:
        """Leave the log as it was."""
        _LOG.removeHandler(self)
        _LOG.propagate = True


class View:
    """The cluster as one scheduler's process sees it; orders may be late, and are lost with the process."""

    def __init__(self, world: World, life: Life) -> None:
        self._world, self._life = world, life
        self._absent_before: frozenset[ProcessKey] = frozenset()
        self.wake: Callable[[], None] = lambda: None

    def on_change(self, wake: Callable[[], None]) -> None:
        """Keep whom to wake."""
        self.wake = wake

    async def look(self, *, as_of_seq: int, expected: Collection[ProcessKey]) -> Seen:
        """Look, which takes a moment, in which the cluster changes or the scheduler records more."""
        await asyncio.sleep(0)
        cluster = self._world.cluster
        cluster._absent_before = self._absent_before
        seen = await cluster.look(as_of_seq=as_of_seq, expected=expected)
        self._absent_before = cluster._absent_before
        seen = self._world.ground.as_it_is(seen)
        await asyncio.sleep(0)
        return seen

    def execute(self, command: Command) -> None:
        """Send an order on its way."""
        self._world.auditor.order(command)
        self._world.check_command(self._life, command)
        if self._world.orders_are_late:
            self._world.orders.append((self._life, command))
        else:
            self._world.ground.carry_out(command)

    async def reports(self, key: ProcessKey, incarnation: str, *, after: int) -> list[Report]:
        """Return what a trainer has said."""
        self._world.auditor.acknowledged(key, after)
        return await self._world.cluster.reports(key, incarnation, after=after)

    async def acknowledge(self, key: ProcessKey, incarnation: str, number: int) -> None:
        """Tell a trainer that its last reports are in the log."""
        self._world.auditor.acknowledged(key, number)
        await self._world.cluster.acknowledge(key, incarnation, number)

    async def close(self) -> None:
        """Trainers stay."""
