"""The ground on which a simulated service stands: nodes that come and go, and trainers that do their work or do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ftactors.core.events import RankPlacement
from ftactors.core.seen import Node, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command
from ftactors.core.work import LAST_WORDS, AnyWord
from ftactors.runtime.memory_cluster import MemoryCluster, Trainer
from ftactors.runtime.memory_shares import free_thousandths
from tests.simulation.auditor import Auditor
from tests.simulation.script import stopping_words, words_of

NODES = (
    Node("node-a", name="a", gpus=2, cpus=32, mem_gib=32),
    Node("node-b", name="b", gpus=2, cpus=32, mem_gib=32),
    Node("node-c", "dead", name="c", gpus=4, cpus=32, mem_gib=32),
)
"""CPUs enough for all, for a preparation takes its own wherever Ray finds some."""


class Ground:
    """What fate can do to nodes and trainers.

    Args:
        cluster: The nodes, and the trainers on them.
        auditor: To be told what befell them.
        time: Returns the time now.
        note_change: Wakes those who look at the cluster.
    """

    def __init__(
        self, cluster: MemoryCluster, auditor: Auditor, *, time: Callable[[], float], note_change: Callable[[], None]
    ) -> None:
        self.cluster = cluster
        self.slow_starts = False
        """Whether trainers that are started stay starting."""
        self.others_came = False
        """Whether others than this service ever used the cluster."""
        self.last_words: set[str] = set()
        """Incarnations that have said their last word."""
        self._auditor, self._time, self._note_change = auditor, time, note_change
        self._heard: dict[str, float] = {}
        self._spoken: Counter[str] = Counter()
        """How many words of its script each incarnation has said."""

    # ------------------------------------------------------------------------------------------------------ trainers
    def bring_up(self) -> None:
        """Let trainers that were started come up, where they have their share."""
        if self.slow_starts:
            return
        for key, trainer in [*self.cluster.trainers.items()]:
            if trainer.process.state == "starting" and self.cluster.bring_up(key):
                self._auditor.came_up(key, str(trainer.process.incarnation))
                self._note_change()

    def carry_out(self, command: Command) -> None:
        """Have an order arrive."""
        if isinstance(command, Begin):
            self._auditor.begun(command)
        before = {*self.cluster.trainers}
        self.cluster.execute(command)
        if before != {*self.cluster.trainers}:  # what is ordered again and again until it is done is no news
            self._note_change()
        self.bring_up()

    def working(self) -> list[ProcessKey]:
        """Return the trainers that report, and whose work has begun and is not over; those that nobody sees, too."""
        return sorted(
            key
            for key, trainer in [*self.cluster.trainers.items(), *self.cluster.cut_off.items()]
            if trainer.work is not None
            and key.rank == 0
            and trainer.process.state == "up"
            and trainer.process.incarnation not in self.last_words
        )

    def other_ranks(self) -> list[ProcessKey]:
        """Return the trainers that do not report, and whose work has begun."""
        found = self.cluster.trainers.items()
        return sorted(key for key, trainer in found if key.rank > 0 and trainer.process.begun)

    def trainer(self, key: ProcessKey) -> Trainer:
        """Return a trainer, be it seen or not."""
        return self.cluster.trainers.get(key) or self.cluster.cut_off[key]

    def say(self, key: ProcessKey, *words: AnyWord) -> None:
        """Have a trainer say words; after its last one it says nothing."""
        incarnation = self._incarnation(key)
        for word in words:
            if incarnation in self.last_words:
                return
            self.cluster.say(key, word)
            self._hear(key)
            if isinstance(word, LAST_WORDS):
                self.last_words.add(incarnation)
        if key.rank > 0:
            self._note_change()

    def speak(self, key: ProcessKey) -> None:
        """Have a trainer say its next word, or that it stopped, once it is told to."""
        trainer = self.trainer(key)
        if trainer.work is None:
            return
        if trainer.stop is not None:
            self.say(key, *stopping_words(trainer))
        else:
            said = self._spoken[self._incarnation(key)]
            self._spoken[self._incarnation(key)] += 1
            self.say(key, words_of(trainer.work)[said])

    def die(self, key: ProcessKey, *, leaves_a_trace: bool = False) -> None:
        """Have a trainer die; Ray may still list it for a while, as dead."""
        self._auditor.befell.add(key)
        self.cluster.die(key, leaves_a_trace=leaves_a_trace)
        self.bring_up()
        self._note_change()

    def forget_the_dead(self) -> None:
        """Have Ray list no dead trainer any more."""
        for key in [key for key, trainer in self.cluster.trainers.items() if trainer.process.state == "dead"]:
            del self.cluster.trainers[key]

    def waiting(self) -> list[ProcessKey]:
        """Return the trainers that wait for a share on a node that could give it."""
        up = {node_id for node_id, node in self.cluster.nodes.items() if node.state == "up"}
        return [
            key
            for key, trainer in self.cluster.trainers.items()
            if trainer.start is not None and trainer.grant is None and trainer.start.placed.node_id in up
        ]

    def as_it_is(self, seen: Seen) -> Seen:
        """Return a look with what the cluster in memory does not know: how long trainers are quiet."""
        if not seen.complete:
            return seen
        now = self._time()
        processes = {
            key: replace(found, quiet_s=now - self._heard.get(str(found.incarnation), now))
            for key, found in seen.processes.items()
        }
        return replace(seen, processes=processes)

    def note_begun(self) -> None:
        """Count the quiet of those who have begun from now on."""
        for trainer in self.cluster.trainers.values():
            if trainer.process.begun:
                self._heard.setdefault(str(trainer.process.incarnation), self._time())

    # --------------------------------------------------------------------------------------------------------- nodes
    def lose(self, node_id: str) -> None:
        """Have a node die with all on it."""
        self._auditor.befell.update(self.cluster.on_node(node_id))
        for key in [key for key, found in self.cluster.cut_off.items() if found.process.node_id == node_id]:
            self.cluster.die(key)
        self.cluster.lose(node_id)
        self._note_change()

    def drain(self, node_id: str) -> None:
        """Have a node be about to go."""
        self.cluster.drain(node_id)
        self._note_change()

    def cut(self, node_id: str) -> None:
        """Have a node be seen dead on which all lives on."""
        self._auditor.befell.update(self.cluster.on_node(node_id))
        self.cluster.cut(node_id)
        self._auditor.unseen.update(str(trainer.process.incarnation) for trainer in self.cluster.cut_off.values())
        self._note_change()

    def bring_back(self, node_id: str) -> None:
        """Have a node be up, with whatever has lived on there."""
        self.cluster.bring_back(node_id)
        self.bring_up()
        self._note_change()

    def let_others_in(self, node_id: str, gpu_thousandths: int) -> None:
        """Have others use a part of a device, where there is room."""
        asked = RankPlacement(node_id=None, gpu_thousandths=gpu_thousandths, cpus=1)
        self.others_came |= self.cluster.occupy(node_id, asked) is not None
        self._note_change()

    def see_others_off(self) -> None:
        """Have all others leave."""
        for taken in [*self.cluster.others]:
            self.cluster.vacate(taken)
        self.bring_up()
        self._note_change()

    def check_devices(self) -> None:
        """Check that no device was given out twice."""
        held = self.cluster.held()
        for node in self.cluster.nodes.values():
            free = free_thousandths(node, held)
            assert min(free, default=0) >= 0, f"devices of {node.node_id} are overcommitted: {free} are free"

    def _incarnation(self, key: ProcessKey) -> str:
        return str(self.trainer(key).process.incarnation)

    def _hear(self, key: ProcessKey) -> None:
        """Note that a trainer is not quiet: its other ranks are in step with it."""
        for other, trainer in [*self.cluster.trainers.items(), *self.cluster.cut_off.items()]:
            if other[:2] == key[:2]:
                self._heard[str(trainer.process.incarnation)] = self._time()
