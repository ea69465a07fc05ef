"""What the scheduler asks of a cluster; kept by Ray's and by the in-memory one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from ftactors.core.errors import FtactorsError
from ftactors.core.seen import ProcessKey, Seen
from ftactors.core.wanted import Command
from ftactors.core.work import Report


class ProcessGoneError(FtactorsError):
    """The trainer actor is dead, or another has its name."""


class Cluster(Protocol):
    """Nodes, and trainer actors on them."""

    def on_change(self, wake: Callable[[], None]) -> None:
        """Have `wake` called on the event loop whenever a look would show something new."""

    async def look(self, *, as_of_seq: int, expected: Collection[ProcessKey]) -> Seen:
        """Look at the cluster.

        Args:
            as_of_seq: The log's last seq now.
            expected: Processes of started attempts; those that two complete looks in a row miss are `missing`.
        """

    def execute(self, command: Command) -> None:
        """Carry a command out in the background; harmless when repeated. A failure shows in the next look."""

    async def reports(self, key: ProcessKey, incarnation: str, *, after: int) -> list[Report]:
        """Return the reports above number `after`, waiting for one for a while; that acknowledges those before.

        Raises:
            ProcessGoneError: nobody is there to report any more.
        """

    async def acknowledge(self, key: ProcessKey, incarnation: str, number: int) -> None:
        """Tell that the reports up to `number` are in the log, where no more will be asked for."""

    async def rest(self) -> None:
        """Let go of what was only kept for the next attempts: nothing is held any more."""

    async def close(self) -> None:
        """Stop what goes on in the background; processes stay."""
