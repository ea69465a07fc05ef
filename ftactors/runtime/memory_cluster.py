"""A cluster in memory: nodes and trainers that do what they are told, for tests and simulations without Ray."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from ftactors.core.seen import Node, Process, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command, Kill, Start, Stop
from ftactors.core.work import AnyWord, Report, Work
from ftactors.runtime.protocol import ProcessGoneError


@dataclass(slots=True)
class Trainer:
    """A trainer actor that exists only here."""

    process: Process
    work: Work | None = None
    stop: Stop | None = None
    said: int = 0
    """How many words it has said."""
    kept: deque[Report] = field(default_factory=deque)
    """Those that no pull has acknowledged."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryCluster:
    """Nodes, and trainers that say what the test has them say.

    Args:
        nodes: All of them free but for what is started here.
        starts: Whether trainers that are started come up at once; else `bring_up` does it.
    """

    def __init__(self, nodes: Iterable[Node], *, starts: bool = True) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self.trainers: dict[ProcessKey, Trainer] = {}
        self.reachable = True
        self.executed: list[Command] = []
        """Every command, in order."""
        self._starts = starts
        self._incarnations = 0
        self._absent_before: frozenset[ProcessKey] = frozenset()
        self._wake: Callable[[], None] = lambda: None

    def on_change(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever a look would show something new."""
        self._wake = wake

    async def look(self, *, as_of_seq: int, expected: Collection[ProcessKey]) -> Seen:
        """Look at the cluster; incomplete while it is not `reachable`."""
        if not self.reachable:
            return Seen(as_of_seq=as_of_seq)
        absent = frozenset(key for key in expected if key not in self.trainers)
        missing, self._absent_before = absent & self._absent_before, absent
        processes = {key: trainer.process for key, trainer in self.trainers.items()}
        return Seen(as_of_seq, complete=True, nodes=dict(self.nodes), processes=processes, missing=missing)

    def execute(self, command: Command) -> None:
        """Carry a command out at once."""
        self.executed.append(command)
        trainer = self.trainers.get(command.key)
        match command:
            case Start() if trainer is None:
                node_id = command.placed.node_id or next(iter(self.nodes))
                self.trainers[command.key] = Trainer(Process(state="starting", node_id=node_id))
                if self._starts:
                    self.bring_up(command.key)
            case Begin() if trainer is not None and trainer.process.incarnation == command.incarnation:
                trainer.work = trainer.work or command.work
                trainer.process = replace(trainer.process, begun=True)
            case Stop() if trainer is not None and trainer.process.incarnation == command.incarnation:
                trainer.stop = command
            case Kill() if trainer is not None:
                self.die(command.key)
        if isinstance(command, Start | Kill):
            self._wake()

    async def reports(self, key: ProcessKey, incarnation: str, *, after: int) -> list[Report]:
        """Return the reports above number `after`, once there is one."""
        while (trainer := self.trainers.get(key)) is not None and trainer.process.incarnation == incarnation:
            while trainer.kept and trainer.kept[0].number <= after:
                trainer.kept.popleft()
            if trainer.kept:
                return list(trainer.kept)
            trainer.news.clear()
            await trainer.news.wait()
        raise ProcessGoneError(f"there is no trainer {key} of incarnation {incarnation}")

    async def acknowledge(self, key: ProcessKey, incarnation: str, number: int) -> None:
        """Drop reports."""
        trainer = self.trainers.get(key)
        if trainer is not None and trainer.process.incarnation == incarnation:
            while trainer.kept and trainer.kept[0].number <= number:
                trainer.kept.popleft()

    async def close(self) -> None:
        """Trainers stay."""

    def bring_up(self, key: ProcessKey) -> None:
        """Have a trainer that was started come up."""
        self._incarnations += 1
        trainer = self.trainers[key]
        trainer.process = replace(
            trainer.process, state="up", pid=self._incarnations, incarnation=f"incarnation-{self._incarnations}"
        )
        self._wake()

    def say(self, key: ProcessKey, *words: AnyWord) -> None:
        """Have a trainer say words."""
        trainer = self.trainers[key]
        for word in words:
            trainer.said += 1
            trainer.kept.append(Report(number=trainer.said, word=word))
        trainer.news.set()

    def die(self, key: ProcessKey) -> None:
        """Have a trainer die, and whatever it had not told with it."""
        trainer = self.trainers.pop(key)
        trainer.news.set()
        self._wake()

    def lose(self, node_id: str) -> None:
        """Have a node die with all on it."""
        self.nodes[node_id] = replace(self.nodes[node_id], state="dead")
        for key in [key for key, trainer in self.trainers.items() if trainer.process.node_id == node_id]:
            self.die(key)
