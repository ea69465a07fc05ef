"""A cluster that outlives the process of its scheduler: kept in a file, with trainers that follow a script.

What a trainer says depends on its work and on how often it was asked, and on nothing else: it says the next part of its
script when a pull finds it with nothing left to tell, or when a scheduler has died and the next one is not there yet.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from os import rename  # this very function, whatever a test puts in its place
from pathlib import Path

from ftactors.core.seen import Node, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command, Stop
from ftactors.core.work import AnyWord, CheckpointWritten, Report, Stopped, Work
from ftactors.runtime.memory_cluster import MemoryCluster, Trainer
from ftactors.runtime.protocol import ProcessGoneError


class Turn(Enum):
    """What a trainer may do in place of saying something."""

    WAIT = "wait until it is told to stop"
    DIE = "die"
    LOSE_A_RANK = "lose the last of its ranks, and wait"


Part = tuple[AnyWord, ...] | Turn
"""Words that are said together, or a turn."""


@dataclass(frozen=True)
class Script:
    """What a trainer does from its beginning to its end."""

    parts: tuple[Part, ...]
    heeds_stop: bool = True


@dataclass
class Past:
    """What a cluster remembers, whatever becomes of its trainers."""

    clusters: int = 1
    """How often it was another cluster."""
    made: list[ProcessKey] = field(default_factory=list)
    """Every trainer that was ever started."""
    begun: list[tuple[ProcessKey, str]] = field(default_factory=list)
    """Every trainer whose work ever began, and its incarnation."""
    acknowledged: dict[tuple[ProcessKey, str], int] = field(default_factory=dict)
    """The last report of each that it need not keep any more."""


class OutlivingCluster(MemoryCluster):
    """A cluster in memory that the next process finds as this one left it.

    Args:
        nodes: Where no process was before.
        path: The file.
        cross: Called with the name of each effect that is about to be.
        script: What the trainer of some work does.
        comes_up: Whether a trainer that is started ever comes up.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        path: Path,
        *,
        cross: Callable[[str], None],
        script: Callable[[Work], Script],
        comes_up: Callable[[ProcessKey], bool],
    ) -> None:
        super().__init__(nodes, starts=False)
        self.past = Past()
        self._parts: dict[ProcessKey, int] = {}
        """How many parts of its script each trainer is through."""
        self._path = path
        self._cross = cross
        self._script = script
        self._comes_up = comes_up
        self.was_there = path.exists()
        """Whether there was a process before this one."""
        if self.was_there:
            self._load()

    def go_on_alone(self) -> None:
        """Let every trainer do the next part of its script, as they do while nobody schedules."""
        for key, trainer in [*self.trainers.items()]:
            if trainer.process.state == "starting" and self._comes_up(key):
                self.bring_up(key)
            if key in self.trainers:  # it may have been lost with another's turn
                self._play(key)
        self._keep()

    def begin_anew(self) -> None:
        """Lose all trainers, and be another cluster from now on."""
        self.trainers.clear()
        self.past.clusters += 1
        self._keep()

    def lose(self, node_id: str) -> None:
        """Have a node die with all on it."""
        self._cross(f"{node_id} dies")
        super().lose(node_id)
        self._keep()

    def drain(self, node_id: str) -> None:
        """Have a node be about to go."""
        self._cross(f"{node_id} drains")
        super().drain(node_id)
        self._keep()

    async def look(self, *, as_of_seq: int, expected: Collection[ProcessKey]) -> Seen:
        """Look at the cluster; what is seen starting comes up right after."""
        seen = await super().look(as_of_seq=as_of_seq, expected=expected)
        for key, trainer in self.trainers.items():
            waits = trainer.grant is None
            if trainer.process.state == "starting" and not waits and self._comes_up(key):
                self._cross("a trainer comes up")
                self.bring_up(key)
                self._keep()
        return seen

    def execute(self, command: Command) -> None:
        """Carry a command out at once."""
        self._cross(type(command).__name__)
        before = self.trainers.get(command.key)
        never = before is not None and before.stop is not None and before.work is None
        if not (never and isinstance(command, Begin)):  # whoever was stopped before it began never does
            super().execute(command)
        after = self.trainers.get(command.key)
        if after is not None and before is None:
            self.past.made.append(command.key)
        if isinstance(command, Begin) and after is not None and after.work is command.work:
            self.past.begun.append((command.key, command.incarnation))
        if isinstance(command, Begin | Stop) and after is not None:
            after.news.set()
        self._keep()

    async def reports(self, key: ProcessKey, incarnation: str, *, after: int) -> list[Report]:
        """Return the reports above number `after`; a trainer without any says the next part of its script."""
        while (trainer := self.trainers.get(key)) is not None and trainer.process.incarnation == incarnation:
            await self.acknowledge(key, incarnation, after)
            trainer.news.clear()
            if not trainer.kept:
                self._play(key)
            self._keep()
            if trainer.kept:
                self._cross("a pull is answered")
                return list(trainer.kept)
            await trainer.news.wait()
        raise ProcessGoneError(f"there is no trainer {key} of incarnation {incarnation}")

    async def acknowledge(self, key: ProcessKey, incarnation: str, number: int) -> None:
        """Drop reports."""
        await super().acknowledge(key, incarnation, number)
        known = self.past.acknowledged.get((key, incarnation), 0)
        self.past.acknowledged[key, incarnation] = max(known, number)
        self._keep()

    def _play(self, key: ProcessKey) -> None:
        """Let a trainer do the next part of its script, if there is one."""
        trainer, at = self.trainers[key], self._parts.get(key, 0)
        work = trainer.work if key.rank == 0 else None  # the others do their work in silence
        script = self._script(work) if work is not None else Script((Turn.WAIT,))
        if at >= len(script.parts):
            return
        part = script.parts[at]
        if trainer.stop is not None and script.heeds_stop:
            self._parts[key] = len(script.parts)
            self.say(key, *_last_words(trainer, trainer.stop))
        elif part is Turn.DIE:
            self.die(key)
        elif part is Turn.LOSE_A_RANK:
            self._parts[key] = at + 1
            self._lose_a_rank(key)
        elif part is not Turn.WAIT:
            self._parts[key] = at + 1
            self.say(key, *part)

    def _lose_a_rank(self, key: ProcessKey) -> None:
        last = max(other for other in self.trainers if other[:2] == key[:2])
        if last != key:
            self._cross("a rank dies")
            self.die(last)

    def _keep(self) -> None:
        trainers = {
            key: (trainer.process, trainer.start, trainer.grant, trainer.work, trainer.stop, trainer.said)
            for key, trainer in self.trainers.items()
        }
        kept = {key: [*trainer.kept] for key, trainer in self.trainers.items()}
        new = self._path.with_suffix(".new")
        new.write_bytes(pickle.dumps((self.nodes, trainers, kept, self._incarnations, self._parts, self.past)))
        rename(new, self._path)  # noqa: PTH104 - see the import

    def _load(self) -> None:
        parts = pickle.loads(self._path.read_bytes())  # noqa: S301 - our own file
        self.nodes, trainers, kept, self._incarnations, self._parts, self.past = parts
        for key, fields in trainers.items():
            self.trainers[key] = Trainer(*fields, deque(kept[key]))


def _last_words(trainer: Trainer, stop: Stop) -> list[AnyWord]:
    """Return what a trainer says that heeds its order to stop."""
    if trainer.work is None or trainer.work.purpose == "prepare" or not stop.save:
        return [Stopped(clean=False)]
    path = f"{trainer.work.attempt_dir}/checkpoints/at-stop"
    return [CheckpointWritten(stage="training", step=7, path=path, digest="d"), Stopped(clean=True)]
