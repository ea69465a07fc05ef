"""How the simulated service is played with: what all rules of the game need, what is checked at rest, and the end."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from ftactors.core.errors import JobNotFoundError, JobStateError, LogError, ServiceError
from ftactors.core.events import JobSubmitted
from ftactors.core.job import Job
from ftactors.core.judging import process_keys
from ftactors.core.seen import ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.log.memory import MemoryStorage
from ftactors.runtime.scheduler import Scheduler
from tests.core.histories import submitted
from tests.invariants import check_live, check_log
from tests.simulation.fairness import fits, may_go
from tests.simulation.model import UserModel
from tests.simulation.process import Call, Life
from tests.simulation.world import World

RULES = ServiceConfig(max_concurrent_fine_tuning_jobs=6, max_wait_seconds=60)
SEEN: Counter[str] = Counter()
"""What all examples together have reached."""
_MOST_ROUNDS = 60
_ANY = 5

picks = st.integers(0, 7)
turns = st.sampled_from([None, None, None, None, 0, 1, 2, 3, 5, 8])
"""How many steps the processes make after a rule; None: until nothing is left to do."""


class Play(RuleBasedStateMachine):
    """A world, what its users know, and the moments of rest and the end, at which all must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = UserModel()
        self.submits: list[tuple[Call, JobSubmitted]] = []
        self.cancels: list[tuple[Call, str, str]] = []
        self.flags: dict[str, Call] = {}
        """The newest call to pause or resume each job."""
        self.short_until = -1.0
        """Until then a scheduler may wait for room on its disk."""
        self.numbers = count()
        self.jobs: list[JobSubmitted] = []
        self.requests: list[tuple[str, str]] = []

    def teardown(self) -> None:
        """Lift all faults, crash once more, and let everything come to its end."""
        try:
            self.come_to_an_end()
        finally:
            SEEN.update(self.world.seen_events + self.world.auditor.reached)
            self.world.end()

    def ask_the_old(self, old: Life, *, restarted: bool) -> None:
        """A scheduler whose log another has taken refuses all that is new, as long as it lives and after that."""
        if old.dead and not restarted:
            return
        if old.dead:
            old = self.world.restart(old)
        job = submitted(f"ftjob-{len(self.jobs) + 1}", new_model_id=f"model-{len(self.jobs) + 1}")
        self.jobs.append(job)
        self.model.submitting(job)
        call = self.world.call("submit", job, life=old)
        self.world.settle()
        assert call.done, f"scheduler {old.number} does not answer"
        refused = isinstance(call.error, LogError | ServiceError)  # it may have known the service as stopped
        assert refused, f"scheduler {old.number} answered {call.answer or call.error!r}"
        self.model.submitted(job, None, call.error)
        SEEN["fenced scheduler refused"] += 1

    def lift_all_faults(self) -> None:
        world, ground = self.world, self.world.ground
        world.disk.room, world.orders_are_late, ground.slow_starts, world.cluster.reachable = None, False, False, True
        ground.see_others_off()
        for node_id, node in world.cluster.nodes.items():
            if node.state == "draining":
                ground.lose(node_id)
            if node.state != "up":
                ground.bring_back(node_id)

    def come_to_an_end(self) -> None:
        world = self.world
        self.lift_all_faults()
        for life in [life for life in world.lives if not life.dead]:
            world.crash(life)
        world.begin()
        self.retry()
        world.call("start", RULES, "someone", by_owner=True)
        self.rest()
        for job_id, asked in self.model.asked.items():
            asked.paused = False
            world.call("resume", job_id, "last", "someone")
        for _ in range(_MOST_ROUNDS):
            scheduler = world.life.scheduler
            assert scheduler is not None, "the log cannot be opened though nothing is wrong"
            if not scheduler.state.jobs:
                break
            for key in world.ground.working():
                while key in world.ground.working():
                    world.ground.speak(key)
            world.pass_time(30.0)
        self.rest()
        assert not scheduler.state.jobs, f"without any fault, these did not come to an end: {scheduler.state.jobs}"
        alive = [key for key, trainer in world.cluster.trainers.items() if trainer.process.state != "dead"]
        assert not alive, f"all jobs have ended, and these trainers live: {alive}"
        accepted = {asked.answered for asked in self.model.asked.values()} - {None}
        state = check_log(MemoryStorage(world.disk), self.model.ledger, least=2 + 2 * len(accepted))
        assert {*state.finished} >= accepted
        SEEN["examples"] += 1
        SEEN["events"] += state.seq
        SEEN.update(f"event: {row.type}" for row in world.disk.rows)

    @staticmethod
    def pick(things: list, number: int):
        return things[number % len(things)]

    def some_job(self, number: int) -> str:
        """Return a job, mostly one that nobody has seen end."""
        going = [job for job in self.jobs if number < _ANY and self.model.asked[job.job_id].end is None]
        return self.pick(going or self.jobs, number).job_id

    def submit(self, job: JobSubmitted) -> None:
        self.model.submitting(job)
        self.submits.append((self.world.call("submit", job), job))

    def cancel(self, job_id: str, request_id: str) -> None:
        if job_id in self.model.asked:
            self.model.asked[job_id].cancelling.add(request_id)
        self.cancels.append((self.world.call("cancel", job_id, request_id, "someone"), job_id, request_id))

    def all_speak(self, count: int) -> None:
        for _ in range(count):
            for key in self.world.ground.working():
                self.world.ground.speak(key)

    def go_on(self, *, rounds: int, count: int) -> None:
        """Let all trainers go on for a while."""
        for _ in range(rounds):
            self.all_speak(count)
            self.world.pass_time(6.0, wakes=2)
        self.rest()

    def then(self, turns: int | None) -> None:
        if turns is None:
            self.rest()
        else:
            self.world.turn(turns)

    def rest(self) -> None:
        """Come to a moment of rest, at which all must hold."""
        self.world.settle()
        self.collect()
        life = self.world.life
        if life.scheduler is None or life is not self.world.owner():  # one that waited for room may have taken the log
            return
        check_live(life.scheduler)
        self.check_shares(life.scheduler)
        self.note(life.scheduler.state.jobs.values())
        statuses = {job_id: self.world.call("status", job_id) for job_id in self.model.asked}
        listed, models = self.world.call("jobs", None, 1000, 0, None), self.world.call("models")
        self.world.settle()
        if life.serves and listed.done and listed.error is None:
            for job_id, call in statuses.items():
                self.model.see(job_id, call.answer)
            self.model.see_all(listed.answer, models.answer)

    def check_shares(self, scheduler: Scheduler) -> None:
        """Check that no trainer waits for a share that was thought free, and no share for a job that may have it."""
        world = self.world
        undisturbed = scheduler.seen.complete and not world.orders_are_late and not world.orders
        if not undisturbed or world.ground.others_came:
            return
        waiting = world.ground.waiting()
        assert not waiting, f"placed where there is no room: {waiting}, beside {world.cluster.held()}"
        held = scheduler.state.held.values()
        up = {key for key, trainer in world.cluster.trainers.items() if trainer.process.state == "up"}
        all_up = all({*process_keys(job)} <= up for job in held)
        train = sum(job.attempt.purpose == "train" for job in held if job.attempt is not None)
        if not all_up or not scheduler.state.places or train >= RULES.max_concurrent_fine_tuning_jobs:
            return
        alive = {key.job_id for key, trainer in world.cluster.trainers.items() if trainer.process.state != "dead"}
        first = next(iter(may_go(scheduler.state, scheduler.now(), alive)), None)
        polled = scheduler.now() - RULES.job_queue_poll_interval_seconds  # by then, who may go was seen
        if first is None or first.retry_at > polled or world.loop.time() <= self.short_until:
            return
        SEEN["checked that the first may not go"] += 1
        idle = fits(first, world.cluster)
        assert not idle, f"{first.job_id} goes first, and waits beside what it needs: {world.cluster.held()}"

    def collect(self) -> None:
        """Take in what drivers were told meanwhile; who was not told for ever makes the call again one day."""
        for call, job in [entry for entry in self.submits if entry[0].done]:
            self.model.submitted(job, call.answer, call.error)
            SEEN[f"submit: {type(call.error).__name__ if call.error else 'accepted'}"] += 1
        for call, job_id, request_id in [entry for entry in self.cancels if entry[0].done]:
            assert call.error is None or isinstance(call.error, LogError), repr(call.error)
            self.model.cancelled(job_id, request_id, call.answer)
            SEEN[f"cancel: {call.answer}"] += 1
        for job_id, call in [entry for entry in self.flags.items() if entry[1].done]:
            allowed = LogError | JobNotFoundError | JobStateError
            assert call.error is None or isinstance(call.error, allowed), repr(call.error)
            self.model.asked[job_id].paused = call.error is None and call.method == "pause"
            del self.flags[job_id]
        self.submits = [entry for entry in self.submits if not entry[0].done]
        self.cancels = [entry for entry in self.cancels if not entry[0].done]

    def retry(self) -> None:
        """Make the calls again whose scheduler died before it answered, with the same ids."""
        lost_submits = [entry for entry in self.submits if entry[0].life.dead]
        lost_cancels = [entry for entry in self.cancels if entry[0].life.dead]
        self.submits = [entry for entry in self.submits if not entry[0].life.dead]
        self.cancels = [entry for entry in self.cancels if not entry[0].life.dead]
        for _, job in lost_submits:
            self.model.lost(job)
            self.submit(job)
        for _, job_id, request_id in lost_cancels:
            self.cancel(job_id, request_id)
        SEEN["calls made again"] += len(lost_submits) + len(lost_cancels)

    def note(self, jobs: object) -> None:
        """Count the phases that were reached."""
        for job in jobs:  # type: ignore[attr-defined]
            assert isinstance(job, Job)
            SEEN[f"phase: {job.phase}"] += 1

    def training(self) -> list[ProcessKey]:
        """Return the trainers that train."""
        trainers = self.world.cluster.trainers
        works = {key: trainers[key].work for key in self.world.ground.working() if key in trainers}
        return [key for key, work in works.items() if work is not None and work.purpose == "train"]
