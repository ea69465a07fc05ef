"""A cluster in memory: nodes and trainers that do what they are told, for tests and simulations without Ray."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from ftactors.core.events import RankPlacement
from ftactors.core.seen import Node, Process, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command, Kill, Start, Stop
from ftactors.core.work import AnyWord, Failed, Report, Work
from ftactors.runtime.memory_shares import Grant, grant, with_free
from ftactors.runtime.protocol import ProcessGoneError


@dataclass(slots=True)
class Trainer:
    """A trainer actor that exists only here."""

    process: Process
    start: Start | None = None
    """How it was asked for."""
    grant: Grant | None = None
    """What it holds; None while it waits for that."""
    work: Work | None = None
    stop: Stop | None = None
    said: int = 0
    """How many words it has said."""
    kept: deque[Report] = field(default_factory=deque)
    """Those that no pull has acknowledged."""
    news: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryCluster:
    """Nodes, and trainers that say what the test has them say.

    As at Ray, a trainer holds its share of a node from when there is room for it until it dies, and waits without a
    word for as long as there is none; which of equally full devices it gets is not to be foreseen.

    Args:
        nodes: All of them free but for what is started here.
        starts: Whether trainers that have their share come up at once; else `bring_up` does it.
        seed: Of all that is not to be foreseen.
    """

    def __init__(self, nodes: Iterable[Node], *, starts: bool = True, seed: int = 0) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self.could_add: tuple[Node, ...] = ()
        """What an autoscaler could bring."""
        self.trainers: dict[ProcessKey, Trainer] = {}
        self.cut_off: dict[ProcessKey, Trainer] = {}
        """Those that live on at nodes which the others take for dead."""
        self.others: list[Grant] = []
        """What others than our trainers hold."""
        self.reachable = True
        self.executed: list[Command] = []
        """Every command, in order."""
        self._starts = starts
        self._random = Random(seed)  # noqa: S311 - no secret
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
        held = self.held()
        return Seen(
            as_of_seq,
            complete=True,
            nodes={node.node_id: with_free(node, held) for node in self.nodes.values()},
            processes={key: trainer.process for key, trainer in self.trainers.items()},
            missing=missing,
            could_add=self.could_add,
        )

    def execute(self, command: Command) -> None:
        """Carry a command out at once."""
        self.executed.append(command)
        trainer = self.trainers.get(command.key)
        match command:
            case Start() if trainer is None:
                self.trainers[command.key] = Trainer(Process(state="starting"), start=command)
                self._give_out()
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

    async def rest(self) -> None:
        """Nothing is kept warm here."""

    async def close(self) -> None:
        """Trainers stay."""

    def bring_up(self, key: ProcessKey) -> bool:
        """Have a trainer that was started come up; return False, and change nothing, while it waits for its share."""
        trainer = self.trainers[key]
        if trainer.grant is None:
            return False
        self._incarnations += 1
        number, node_id, device = self._incarnations, trainer.grant.node_id, trainer.grant.device
        several = trainer.start is not None and trainer.start.world_size > 1
        trainer.process = replace(
            trainer.process,
            state="up",
            node_id=node_id,
            devices=() if device is None else (str(device),),
            pid=number,
            incarnation=f"incarnation-{number}",
            address=f"{node_id}:{20_000 + number}" if several and key.rank == 0 else None,
        )
        self._wake()
        return True

    def say(self, key: ProcessKey, *words: AnyWord) -> None:
        """Have a trainer say words; of one whose rank does not report, only how it failed is kept."""
        trainer = self.trainers.get(key) or self.cut_off[key]
        for word in words:
            if key.rank == 0:
                trainer.said += 1
                trainer.kept.append(Report(number=trainer.said, word=word))
            elif isinstance(word, Failed):
                trainer.process = replace(trainer.process, failed=word)
                self._wake()
        trainer.news.set()

    def die(self, key: ProcessKey, *, leaves_a_trace: bool = False) -> None:
        """Have a trainer die, and whatever it had not told with it; it may be listed as dead for a while."""
        trainer = self.trainers.pop(key, None) or self.cut_off.pop(key)
        if leaves_a_trace:
            self.trainers[key] = Trainer(Process(state="dead", why="-9"))
        trainer.news.set()
        self._give_out()
        self._wake()

    def lose(self, node_id: str) -> None:
        """Have a node die with all on it."""
        self._set(node_id, "dead")
        for key in [*self.on_node(node_id)]:
            self.die(key)

    def drain(self, node_id: str) -> None:
        """Have a node be about to go: nothing new comes up there."""
        self._set(node_id, "draining")

    def cut(self, node_id: str) -> None:
        """Have a node be taken for dead on which all lives on."""
        self._set(node_id, "dead")
        for key in [*self.on_node(node_id)]:
            trainer = self.trainers.pop(key)
            trainer.news.set()
            if trainer.process.state == "up":  # what was not up yet never will be
                self.cut_off[key] = trainer
        self._wake()

    def bring_back(self, node_id: str) -> None:
        """Have a node be up again, with what lived on there but for those whose name was given to another."""
        for key, trainer in [*self.cut_off.items()]:
            if trainer.grant is not None and trainer.grant.node_id == node_id:
                del self.cut_off[key]
                self.trainers.setdefault(key, trainer)
        self._set(node_id, "up")

    def occupy(self, node_id: str, asked: RankPlacement) -> Grant | None:
        """Have others on the cluster take a part of a node; None, and nothing taken, where there is no room."""
        taken = grant(self.nodes[node_id], asked, self.held(), self._random)
        if taken is not None:
            self.others.append(taken)
            self._wake()
        return taken

    def vacate(self, taken: Grant) -> None:
        """Have others on the cluster give back what they took."""
        self.others.remove(taken)
        self._give_out()
        self._wake()

    def held(self) -> list[Grant]:
        """Return all that is given out."""
        living = [trainer for trainer in self.trainers.values() if trainer.process.state != "dead"]
        ours = [trainer.grant for trainer in [*living, *self.cut_off.values()] if trainer.grant is not None]
        return [*ours, *self.others]

    def on_node(self, node_id: str) -> list[ProcessKey]:
        """Return the trainers that are on a node, those that wait for room there, too."""
        return [key for key, trainer in self.trainers.items() if _node_of(trainer) == node_id]

    def _set(self, node_id: str, state: Literal["up", "draining", "dead"]) -> None:
        self.nodes[node_id] = replace(self.nodes[node_id], state=state)
        self._give_out()
        self._wake()

    def _give_out(self) -> None:
        """Give each trainer that waits its share, where there is room by now; first come, first served."""
        for key, trainer in [*self.trainers.items()]:
            if trainer.start is None or trainer.grant is not None:
                continue
            nodes = self._nodes_for(trainer.start)
            offers = (grant(node, trainer.start.placed, self.held(), self._random) for node in nodes)
            trainer.grant = next((offer for offer in offers if offer is not None), None)
            if trainer.grant is not None and self._starts:
                self.bring_up(key)

    def _nodes_for(self, start: Start) -> list[Node]:
        """Return the nodes that a trainer may be on: the one that it is pinned to, or all in any order."""
        kind, node_id = start.accelerator_type, start.placed.node_id
        nodes = [node for node in self.nodes.values() if kind is None or node.accelerator_type == kind]
        if node_id is not None:
            return [node for node in nodes if node.node_id == node_id]
        return self._random.sample(nodes, len(nodes))


def _node_of(trainer: Trainer) -> str | None:
    if trainer.grant is not None:
        return trainer.grant.node_id
    return trainer.start.placed.node_id if trainer.start is not None else None
