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
from ftactors.core.wanted import Command, Kill
from ftactors.log.beside import Owner
from ftactors.log.errors import LogTakenError, OutcomeUnknownError
from ftactors.log.memory import MemoryDisk, MemoryStorage
from ftactors.runtime.clock import Clock
from ftactors.runtime.desk import Desk
from ftactors.runtime.memory_cluster import MemoryCluster
from ftactors.runtime.scheduler import Scheduler
from tests.simulation.auditor import Auditor
from tests.simulation.ground import NODES, Ground
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Call, Complaints, Life, View

RESERVE = 30
"""Rows that a full disk gives back."""
_NOON = 1_800_000_000.0
_RESTART_S = 1.0
_MOST_TURNS = 3_000
"""More than that without a moment of rest is a scheduler that runs in circles."""


class World:
    """All that goes on, and the hands of fate in it; those that reach nodes and trainers are its `ground`.

    Args:
        seed: Of what Ray's choices hang on.
    """

    def __init__(self, seed: int = 0) -> None:
        self.loop = VirtualLoop()
        self.disk = MemoryDisk(reserve=RESERVE)
        self.cluster = MemoryCluster(NODES, starts=False, seed=seed)
        self.cluster_number = 1
        self.wall_s = _NOON
        self.lives: list[Life] = []
        self.life: Life
        """The process that drivers find: the newest, or the one that Ray has restarted in its place."""
        self.orders: list[tuple[Life, Command]] = []
        self.orders_are_late = False
        self.seen_events: Counter[str] = Counter()
        """How often each thing happened that a test wants to know it reached."""
        self.auditor = Auditor(self.disk, self.cluster)
        self.wrong = self.auditor.wrong
        """What must never happen, and did."""
        self.ground = Ground(self.cluster, self.auditor, time=self.loop.time, note_change=self._note_change)
        self._complaints = Complaints(self.wrong)
        self._actors = 0

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
            self._follow()
            if write.name == "write" and (error := write.told.exception()) is not None:
                self.seen_events[f"undone: {type(error).__name__}"] += 1
            return
        if fate == "lost_after":
            with suppress(LogError):
                write.work()
        self._follow()
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
        self.ground.check_devices()

    def pass_time(self, seconds: float, *, wakes: int = 4) -> None:
        """Let time pass; those who sleep wake so many times meanwhile, however often they wanted to."""
        until = self.loop.time() + seconds
        for part in range(wakes - 1, -1, -1):
            due = self.loop.next_timer()
            self.loop.pass_until(until - seconds * part / wakes if due is None or part == 0 else min(due, until))
            self.settle()
        self.loop.pass_until(until)
        self.ground.forget_the_dead()
        self.settle()

    def deliver(self) -> None:
        """Let orders that were late arrive."""
        orders, self.orders = self.orders, []
        for _, command in orders:
            self.ground.carry_out(command)
        self.ground.bring_up()

    def new_cluster(self) -> None:
        """End the cluster with all that ran on it, schedulers too; the next opening finds a new one."""
        for life in self.lives:
            self.crash(life)
        self.ground.see_others_off()
        for key in [*self.cluster.trainers, *self.cluster.cut_off]:
            self.cluster.die(key)
        for node_id in self.cluster.nodes:
            self.ground.bring_back(node_id)
        self.cluster.reachable = True
        self.cluster_number += 1

    def check_command(self, life: Life, command: Command) -> None:
        """Note a command that does harm: one of a process whose log another has taken, against the other's work."""
        owner = self.owner()
        if not isinstance(command, Kill) or owner is None or owner is life or owner.scheduler is None:
            return
        held = owner.scheduler.state.jobs.get(command.key.job_id)
        if held is not None and held.attempt is not None and held.attempt.number == command.key.attempt:
            self.wrong.append(f"scheduler {life.number} killed {command.key}, which scheduler {owner.number} wants")

    def _follow(self) -> None:
        self.auditor.follow(self._alive_as_seen_in)

    def _alive_as_seen_in(self, epoch: int) -> Collection[str] | None:
        """Return the jobs of which the scheduler of an epoch saw a trainer when it looked last."""
        for life in self.lives:
            scheduler = life.scheduler
            if scheduler is not None and not life.dead and scheduler.log.epoch == epoch:
                return {key.job_id for key, found in scheduler.seen.processes.items() if found.state != "dead"}
        return None

    def _note_change(self) -> None:
        """Wake who looks at the cluster, as Ray's subscriptions do."""
        for life in self.lives:
            if not life.dead and life.scheduler is not None:
                life.scheduler.cluster.wake()  # type: ignore[attr-defined]
        self.ground.note_begun()

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
