"""A world for a scheduler to live and die in: a disk, a cluster, clocks, and the processes of one scheduler or more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, Self

from ftactors.core.errors import FtactorsError, LogError, LogRefusedError
from ftactors.core.events import LogOpened
from ftactors.core.seen import Node, ProcessKey, Seen
from ftactors.core.wanted import Begin, Command, Kill, Start
from ftactors.core.work import LAST_WORDS, AnyWord
from ftactors.log.beside import Owner
from ftactors.log.errors import LogTakenError, OutcomeUnknownError
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.runtime.clock import Clock
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster, Trainer
from ftactors.runtime.scheduler import Scheduler
from tests.simulation.auditor import Auditor
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Call, Complaints, Life, View
from tests.simulation.script import stopping_words, words_of

NODES = (
    Node("node-a", name="a", gpus=2, cpus=8, mem_gib=32),
    Node("node-b", name="b", gpus=1, cpus=4, mem_gib=16),
)
RESERVE = 30
"""Rows that a full disk gives back."""
_NOON = 1_800_000_000.0
_RESTART_S = 1.0
_MOST_TURNS = 3_000
"""More than that without a moment of rest is a scheduler that runs in circles."""


class World:
    """All that goes on, and the hands of fate in it."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.disk = MemoryDisk(reserve=RESERVE)
        self.cluster = MemoryCluster(NODES, starts=False)
        self.cluster_number = 1
        self.wall_s = _NOON
        self.lives: list[Life] = []
        self.life: Life
        """The process that drivers find: the newest, or the one that Ray has restarted in its place."""
        self.orders: list[tuple[Life, Command]] = []
        self.orders_are_late = False
        self.slow_starts = False
        """Whether trainers that are started stay starting."""
        self.seen_events: Counter[str] = Counter()
        """How often each thing happened that a test wants to know it reached."""
        self.last_words: set[str] = set()
        """Incarnations that have said their last word."""
        self.auditor = Auditor(self.disk, self.cluster)
        self.wrong = self.auditor.wrong
        """What must never happen, and did."""
        self._complaints = Complaints(self.wrong)
        self._actors = 0
        self._heard: dict[str, float] = {}
        self._spoken: Counter[str] = Counter()
        """How many words of its script each incarnation has said."""
        self._shares: dict[ProcessKey, tuple[int, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let all processes be thrown away."""
        self.loop.end()
        self._complaints.end()

    def begin(self) -> Life:
        """Start the process of a scheduler actor that was never there before; drivers find it from now on."""
        self._actors += 1
        self.life = self._begin(Owner(id=f"actor-{self._actors}"))
        return self.life

    def restart(self, life: Life) -> Life:
        """Restart a crashed process, as Ray does."""
        restarted = self._begin(replace(life.owner))
        if life is self.life:
            self.life = restarted
        return restarted

    def _begin(self, owner: Owner) -> Life:
        life = Life(len(self.lives) + 1, owner)
        self.lives.append(life)
        self.loop.spawn(life.number, self._live(life))
        return life

    def crash(self, life: Life) -> None:
        """Kill a process; the disk and the cluster stay."""
        if life.dead:
            return
        life.dead = True
        self._count_crash(life)
        self.loop.kill(life.number)
        self.orders = [(sender, command) for sender, command in self.orders if sender is not life]

    def call(self, method: str, *args: Any, life: Life | None = None, **options: Any) -> Call:
        """Make a call; its answer arrives while turns are made."""
        call = Call(method, args, options, life or self.life)
        self.loop.spawn(call.life.number, self._answer(call))
        return call

    def owner(self) -> Life | None:
        """Return the process that has the log."""
        serving = (life for life in self.lives if life.serves and life.scheduler is not None)
        return next((life for life in serving if life.scheduler.log.epoch == self.disk.epoch), None)  # type: ignore[union-attr]

    def turn(self, turns: int) -> None:
        """Let the processes do so many steps."""
        for _ in range(turns):
            self.loop.turn()

    def write(self, which: int = 0, *, fate: str = "done") -> None:
        """Have the disk do what waits for it, of one process.

        Args:
            which: Of the processes that have something waiting.
            fate: `done`; or the connection is lost before or after the commit: `lost_before`, `lost_after`.
        """
        firsts = {write.life: write for write in reversed(self.loop.writes)}
        if not firsts:
            return
        write = firsts[sorted(firsts)[which % len(firsts)]]
        self.loop.writes.remove(write)
        if fate == "done" or write.name != "write":
            write.do()
            self.auditor.follow()
            if write.name == "write" and (error := write.told.exception()) is not None:
                self.seen_events[f"undone: {type(error).__name__}"] += 1
            return
        if fate == "lost_after":
            with suppress(LogError):
                write.work()
        self.auditor.follow()
        write.fail(OutcomeUnknownError("the connection was lost at the commit"))

    def settle(self) -> None:
        """Let everything happen that can happen at this moment."""
        for _ in range(_MOST_TURNS):
            if not self.orders_are_late:
                self.deliver()
            if self.loop.turn():
                continue
            if not self.loop.writes:
                break
            self.write()
        else:
            last = [*(row.type for row in self.disk.rows[-4:]), *map(repr, self.cluster.executed[-4:])]
            raise AssertionError(f"no rest after {_MOST_TURNS} turns: somebody runs in circles: {last}")
        assert not self.wrong, self.wrong
        assert not self.loop.errors, self.loop.errors

    def pass_time(self, seconds: float, *, wakes: int = 4) -> None:
        """Let time pass; those who sleep wake so many times meanwhile, however often they wanted to."""
        until = self.loop.time() + seconds
        for part in range(wakes - 1, -1, -1):
            due = self.loop.next_timer()
            self.loop.pass_until(until - seconds * part / wakes if due is None or part == 0 else min(due, until))
            self.settle()
        self.loop.pass_until(until)
        self._forget_the_dead()
        self.settle()

    def deliver(self) -> None:
        """Let orders that were late arrive."""
        orders, self.orders = self.orders, []
        for _, command in orders:
            self.carry_out(command)
        if not self.slow_starts:
            self.bring_up()

    def bring_up(self) -> None:
        """Let trainers that were started come up, where their node has room."""
        for key, trainer in [*self.cluster.trainers.items()]:
            if trainer.process.state == "starting" and self._fits(key, trainer):
                self.cluster.bring_up(key)
                self._note_change()

    def say(self, key: ProcessKey, *words: AnyWord) -> None:
        """Have a trainer say words; after its last one it says nothing."""
        trainer = self.cluster.trainers[key]
        for word in words:
            if trainer.process.incarnation in self.last_words:
                return
            self.cluster.say(key, word)
            self._heard[str(trainer.process.incarnation)] = self.loop.time()
            if isinstance(word, LAST_WORDS):
                self.last_words.add(str(trainer.process.incarnation))

    def speak(self, key: ProcessKey) -> None:
        """Have a trainer say its next word, or that it stopped, once it is told to."""
        trainer = self.cluster.trainers[key]
        if trainer.work is None:
            return
        if trainer.stop is not None:
            self.say(key, *stopping_words(trainer))
        else:
            said = self._spoken[str(trainer.process.incarnation)]
            self._spoken[str(trainer.process.incarnation)] += 1
            self.say(key, words_of(trainer.work)[said])

    def die(self, key: ProcessKey, *, leaves_a_trace: bool = False) -> None:
        """Have a trainer die; Ray may still list it for a while, as dead."""
        trainer = self.cluster.trainers[key]
        self.auditor.befell.add(key)
        self.cluster.die(key)
        if leaves_a_trace:
            self.cluster.trainers[key] = Trainer(replace(trainer.process, state="dead", incarnation=None, why="-9"))
        self._note_change()

    def lose_or_return(self, node_id: str) -> None:
        """Have a node die with all on it, or come back."""
        node = self.cluster.nodes[node_id]
        if node.state == "up":
            there = (key for key, found in self.cluster.trainers.items() if found.process.node_id == node_id)
            self.auditor.befell.update(there)
            self.cluster.lose(node_id)
        else:
            self.cluster.nodes[node_id] = replace(node, state="up")
        self._note_change()

    def new_cluster(self) -> None:
        """End the cluster with all that ran on it, schedulers too; the next opening finds a new one."""
        for life in self.lives:
            self.crash(life)
        for key in [*self.cluster.trainers]:
            self.cluster.die(key)
        for node_id, node in self.cluster.nodes.items():
            self.cluster.nodes[node_id] = replace(node, state="up")
        self.cluster.reachable = True
        self.cluster_number += 1

    def working(self) -> list[ProcessKey]:
        """Return the trainers whose work has begun and is not over."""
        return sorted(
            key
            for key, trainer in self.cluster.trainers.items()
            if trainer.work is not None
            and trainer.process.state == "up"
            and trainer.process.incarnation not in self.last_words
        )

    def carry_out(self, command: Command) -> None:
        """Have an order arrive."""
        if isinstance(command, Start):
            up = [node_id for node_id, node in self.cluster.nodes.items() if node.state == "up"]
            node_id = command.placed.node_id or next(iter(up), None)
            if node_id not in up:  # Ray waits for the node without a word
                return
            command = replace(command, placed=command.placed.model_copy(update={"node_id": node_id}))
            self._shares[command.key] = (command.placed.gpu_thousandths, command.placed.cpus)
        if isinstance(command, Begin):
            self.auditor.begun(command.key)
        before = {*self.cluster.trainers}
        self.cluster.execute(command)
        if before != {*self.cluster.trainers}:  # what is ordered again and again until it is done is no news
            self._note_change()
        if not self.slow_starts:
            self.bring_up()

    def check_command(self, life: Life, command: Command) -> None:
        """Note a command that does harm: one of a process whose log another has taken, against the other's work."""
        owner = self.owner()
        if not isinstance(command, Kill) or owner is None or owner is life or owner.scheduler is None:
            return
        held = owner.scheduler.state.jobs.get(command.key.job_id)
        if held is not None and held.attempt is not None and held.attempt.number == command.key.attempt:
            self.wrong.append(f"scheduler {life.number} killed {command.key}, which scheduler {owner.number} wants")

    def as_it_is(self, seen: Seen) -> Seen:
        """Return a look with what only this world knows: what is free on the nodes, and how long trainers are quiet."""
        if not seen.complete:
            return seen
        processes = {
            key: replace(found, quiet_s=self.loop.time() - self._heard.get(str(found.incarnation), self.loop.time()))
            for key, found in seen.processes.items()
        }
        nodes = {node.node_id: node for node in self._free(seen.nodes.values())}
        return replace(seen, processes=processes, nodes=nodes)

    def _free(self, nodes: Collection[Node]) -> list[Node]:
        return [
            replace(
                node,
                free_gpu_thousandths=1000 * node.gpus - sum(gpu for gpu, _ in self._used(node.node_id)),
                free_cpus=node.cpus - sum(cpus for _, cpus in self._used(node.node_id)),
                free_mem_gib=node.mem_gib,
            )
            for node in nodes
        ]

    def _used(self, node_id: str) -> list[tuple[int, float]]:
        return [
            self._shares[key]
            for key, trainer in self.cluster.trainers.items()
            if trainer.process.state == "up" and trainer.process.node_id == node_id
        ]

    def _fits(self, key: ProcessKey, trainer: Trainer) -> bool:
        node = next(node for node in self._free([self.cluster.nodes[str(trainer.process.node_id)]]))
        gpu, cpus = self._shares[key]
        return node.state == "up" and gpu <= node.free_gpu_thousandths and cpus <= node.free_cpus

    def _forget_the_dead(self) -> None:
        for key in [key for key, trainer in self.cluster.trainers.items() if trainer.process.state == "dead"]:
            del self.cluster.trainers[key]

    def _note_change(self) -> None:
        """Wake who looks at the cluster, as Ray's subscriptions do."""
        for life in self.lives:
            if not life.dead and life.scheduler is not None:
                life.scheduler.cluster.wake()  # type: ignore[attr-defined]
        for key, trainer in self.cluster.trainers.items():
            if trainer.process.begun:
                self._heard.setdefault(str(self.cluster.trainers[key].process.incarnation), self.loop.time())

    async def _live(self, life: Life) -> None:
        """Live as the scheduler's actor does: open the log, however often that takes, then schedule."""
        wait_s = 2.0
        while True:
            view = View(self, life)
            storage = MemoryStorage(self.disk, owner=life.owner)
            scheduler = Scheduler(storage, view, on_fatal=lambda error: self._fatal(life, error), clock=self._clock)
            try:
                await scheduler.open(self._opened(life))
            except FtactorsError as error:
                life.refusal = error
                life.tried.set()
                await scheduler.close()
                if isinstance(error, LogTakenError):
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, 60.0)
            else:
                break
        life.scheduler, life.desk, life.refusal = scheduler, Desk(scheduler, pid=life.number), None
        life.tried.set()
        await scheduler.run()
        life.refusal = scheduler.log.refusal

    async def _answer(self, call: Call) -> None:
        life = call.life
        try:
            await life.tried.wait()
            if life.desk is None or life.refusal is not None:
                raise copy(life.refusal or LogRefusedError("not open"))
            call.answer = await getattr(life.desk, call.method)(*call.args, **call.options)
        except FtactorsError as error:
            call.error = error
        call.done = True

    def _fatal(self, life: Life, error: BaseException) -> None:
        """End a process that does not know what is on the disk; Ray restarts it."""
        if not isinstance(error, OutcomeUnknownError):
            self.wrong.append(f"scheduler {life.number} ended itself: {error!r}")
        self.seen_events["unknown outcome"] += 1
        self.crash(life)
        self.restart(life)

    def _clock(self, at_least: float) -> Clock:
        return Clock(at_least, wall=lambda: self.wall_s + self.loop.time(), monotonic=self.loop.time)

    def _opened(self, life: Life) -> LogOpened:
        return LogOpened(
            cluster_id=f"cluster-{self.cluster_number}",
            namespace="ftactors",
            actor_id=life.owner.id,
            node_id="node-a",
            pid=life.number,
            version="0.1.0",
        )

    def _count_crash(self, life: Life) -> None:
        """Count where the crash fell."""
        scheduler = life.scheduler
        if scheduler is None:
            self.seen_events["crash while opening"] += 1
            return
        durable, appended = scheduler.log.durable_seq, scheduler.log.seq
        if any(write.life == life.number for write in self.loop.writes):
            self.seen_events["crash between append and commit"] += 1
        if self.disk.end.seq > durable and self.disk.rows[durable].epoch == scheduler.log.epoch:
            self.seen_events["crash between commit and the waiters"] += 1
        elif durable == appended and self.loop._ready:
            self.seen_events["crash between durable and what follows"] += 1
