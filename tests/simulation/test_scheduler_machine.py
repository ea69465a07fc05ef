"""Thousands of ways in which users, trainers, nodes, clocks, disks and crashes can get in a scheduler's way.

A Hypothesis state machine drives the real scheduler, desk and event log on the disk and the cluster in memory, in an
event loop whose time is virtual, against the small model of what users may rely on in `model.py`. At each moment of
rest I1 to I7 hold; at the end all faults are lifted, and every job comes to its end.

    pytest tests/simulation                              # as in CI
    FTACTORS_LONG=1 pytest tests/simulation              # 20,000 others, for about half an hour
    FTACTORS_LONG=1 pytest tests/simulation --hypothesis-seed=1234

A failure is shrunk and printed with the blob that reproduces it (`@reproduce_failure`).
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ftactors.core.errors import JobNotFoundError, JobStateError, LogError, ServiceError
from ftactors.core.events import JobSubmitted
from ftactors.core.job import Job
from ftactors.core.phases import TERMINAL_PHASES, Phase
from ftactors.core.seen import ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.work import Report
from ftactors.log.errors import LogTakenError
from ftactors.log.memory import MemoryStorage
from tests.core.histories import submitted
from tests.invariants import check_live, check_log
from tests.simulation.model import UserModel
from tests.simulation.process import Call, Life
from tests.simulation.script import failing_word, missing_word, published_word, stopping_words, words_of
from tests.simulation.world import World

LONG = os.environ.get("FTACTORS_LONG") == "1"
SETTINGS = settings(
    max_examples=20_000 if LONG else 300,
    stateful_step_count=120 if LONG else 50,
    deadline=None,
    print_blob=True,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RULES = ServiceConfig(max_concurrent_fine_tuning_jobs=2)
_MOST_ROUNDS = 60
_MANY_LIVES = 6
"""With more than that behind it, an example is to spend its steps on other things."""
SEEN: Counter[str] = Counter()
"""What all examples together have reached."""

_ANY = 5
picks = st.integers(0, 7)
turns = st.sampled_from([None, None, None, None, 0, 1, 2, 3, 5, 8])
"""How many steps the processes make after a rule; None: until nothing is left to do."""


class SchedulerMachine(RuleBasedStateMachine):
    """The rules of the game."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = UserModel()
        self.submits: list[tuple[Call, JobSubmitted]] = []
        self.cancels: list[tuple[Call, str, str]] = []
        self.flags: dict[str, Call] = {}
        """The newest call to pause or resume each job."""
        self.numbers = count()
        self.jobs: list[JobSubmitted] = []
        self.requests: list[tuple[str, str]] = []

    @initialize(jobs=st.integers(0, 2), rounds=st.integers(0, 12))
    def the_service_starts(self, jobs: int, rounds: int) -> None:
        self.world.begin()
        self.world.call("start", RULES, "someone", by_owner=True)
        self.rest()
        for number in range(jobs):
            self.a_driver_submits(share=1.0, priority=number, keyed=True, then=None)
        if jobs:
            self.all_goes_well_for_a_while(rounds=rounds, count=2)

    # ------------------------------------------------------------------------------------------------------- drivers
    @rule(share=st.sampled_from([0.5, 1.0]), priority=st.integers(0, 1), keyed=st.booleans(), then=turns)
    def a_driver_submits(self, *, share: float, priority: int, keyed: bool, then: int | None) -> None:
        number = len(self.jobs) + 1
        job = submitted(
            f"ftjob-{number}",
            key=f"key-{number}" if keyed else None,
            new_model_id=f"model-{number}",
            resources={"num_gpus": share},
            priority=priority,
            max_attempts=2,
        ).model_copy(update={"config_digest": f"digest-{number}"})
        self.jobs.append(job)
        self.submit(job)
        self.then(then)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, then=turns)
    def a_driver_submits_again(self, pick: int, then: int | None) -> None:
        self.submit(self.pick(self.jobs, pick))
        self.then(then)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, kind=st.sampled_from(["same key", "other config", "same model"]), then=turns)
    def a_driver_submits_what_is_like_another_job(self, pick: int, kind: str, then: int | None) -> None:
        other = self.pick(self.jobs, pick)
        changes: dict[str, object] = {"job_id": f"ftjob-{len(self.jobs) + 1}"}
        if kind == "other config":
            changes["config_digest"] = f"other-{other.config_digest}"
        if kind == "same model":
            changes["idempotency_key"] = None
        job = other.model_copy(update=changes)
        self.jobs.append(job)
        self.submit(job)
        self.then(then)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, then=turns)
    def a_driver_cancels(self, pick: int, then: int | None) -> None:
        request = self.some_job(pick), f"request-{len(self.requests) + 1}"
        self.requests.append(request)
        self.cancel(*request)
        self.then(then)

    @precondition(lambda self: self.requests)
    @rule(pick=picks, then=turns)
    def a_driver_cancels_again(self, pick: int, then: int | None) -> None:
        self.cancel(*self.pick(self.requests, pick))
        self.then(then)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, pause=st.booleans(), then=turns)
    def a_driver_pauses_or_resumes(self, *, pick: int, pause: bool, then: int | None) -> None:
        job_id = self.some_job(pick)
        if not pause and job_id in self.model.asked:
            self.model.asked[job_id].paused = False
        request_id = f"flag-{next(self.numbers)}"
        self.flags[job_id] = self.world.call("pause" if pause else "resume", job_id, request_id, "someone")
        self.then(then)

    @rule(on=st.booleans(), then=turns)
    def the_service_is_started_or_stopped(self, *, on: bool, then: int | None) -> None:
        if on:
            self.world.call("start", RULES, "someone", by_owner=True)
        else:
            self.world.call("stop", "someone")
        self.then(then)

    @rule()
    def calls_that_were_lost_are_made_again(self) -> None:
        self.retry()
        self.rest()

    # ------------------------------------------------------------------------------------------------------ trainers
    @rule(count=st.integers(1, 6), then=turns)
    def all_trainers_go_on(self, count: int, then: int | None) -> None:
        self.all_speak(count)
        self.then(then)

    @precondition(lambda self: self.world.working())
    @rule(pick=picks, then=turns)
    def a_trainer_goes_on(self, pick: int, then: int | None) -> None:
        self.world.speak(self.pick(self.world.working(), pick))
        self.then(then)

    @precondition(lambda self: self.world.working())
    @rule(
        pick=picks,
        how=st.sampled_from(["retryable", "for good", "ignores the stop", "stops"]),
        then=turns,
    )
    def a_trainer_ends(self, pick: int, how: str, then: int | None) -> None:
        key = self.pick(self.world.working(), pick)
        trainer = self.world.cluster.trainers[key]
        trains = trainer.work is not None and trainer.work.purpose == "train"
        if how == "ignores the stop" and trains:
            self.world.say(key, published_word())
        elif how == "stops":
            self.world.say(key, *stopping_words(trainer))
        else:
            self.world.say(key, failing_word(retryable=how == "retryable"))
        self.then(then)

    @precondition(lambda self: self.training())
    @rule(pick=picks, then=turns)
    def a_trainer_finds_its_data_gone(self, pick: int, then: int | None) -> None:
        self.world.say(self.pick(self.training(), pick), missing_word())
        self.then(then)

    def training(self) -> list[ProcessKey]:
        """Return the trainers that train."""
        works = {key: self.world.cluster.trainers[key].work for key in self.world.working()}
        return [key for key, work in works.items() if work is not None and work.purpose == "train"]

    @precondition(lambda self: self.world.working())
    @rule(pick=picks, how=st.sampled_from(["again", "an old number", "a number too high", "impossible"]), then=turns)
    def a_trainer_talks_nonsense(self, pick: int, how: str, then: int | None) -> None:
        key = self.pick(self.world.working(), pick)
        trainer = self.world.cluster.trainers[key]
        word = words_of(trainer.work)[0] if trainer.work else failing_word(retryable=True)
        if how == "again":
            self.world.say(key, word, word)
        elif how == "impossible":
            wrong = (
                published_word() if trainer.work and trainer.work.purpose == "prepare" else stopping_words(trainer)[-1]
            )
            self.world.say(key, wrong)
        elif how == "a number too high" or trainer.said:
            number = max(1, trainer.said - 1) if how == "an old number" else trainer.said + 5
            trainer.kept.append(Report(number=number, word=word))
            trainer.news.set()
        self.then(then)

    @precondition(lambda self: self.world.cluster.trainers)
    @rule(pick=picks, trace=st.booleans(), then=turns)
    def a_trainer_dies(self, *, pick: int, trace: bool, then: int | None) -> None:
        keys = sorted(key for key, found in self.world.cluster.trainers.items() if found.process.state != "dead")
        if keys:
            self.world.die(self.pick(keys, pick), leaves_a_trace=trace)
        self.then(then)

    @rule(slow=st.booleans())
    def trainers_start_slowly_or_not(self, *, slow: bool) -> None:
        self.world.slow_starts = slow
        self.rest()

    @rule(rounds=st.integers(1, 6), count=st.integers(1, 4))
    def all_goes_well_for_a_while(self, rounds: int, count: int) -> None:
        for _ in range(rounds):
            self.all_speak(count)
            self.world.pass_time(6.0)
        self.rest()

    # ------------------------------------------------------------------------------------------------------- cluster
    @rule(node=st.sampled_from(["node-a", "node-b"]), then=turns)
    def a_node_is_lost_or_comes_back(self, node: str, then: int | None) -> None:
        self.world.lose_or_return(node)
        self.then(then)

    @rule(then=turns)
    def the_cluster_cannot_be_reached_or_can_again(self, then: int | None) -> None:
        self.world.cluster.reachable = not self.world.cluster.reachable
        self.then(then)

    @rule(late=st.booleans())
    def orders_are_late_or_not(self, *, late: bool) -> None:
        self.world.orders_are_late = late

    @precondition(lambda self: len(self.world.lives) < _MANY_LIVES)
    @rule(then=turns)
    def a_new_cluster(self, then: int | None) -> None:
        self.world.new_cluster()
        self.world.begin()
        self.then(then)

    # --------------------------------------------------------------------------------------------------- time and disk
    @rule(hours=st.sampled_from([-3.0, 5.0]))
    def the_wall_clock_jumps(self, hours: float) -> None:
        self.world.wall_s += 3600.0 * hours

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, 40.0, 100.0, 310.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.rest()

    @rule(room=st.sampled_from([0, 3, None]), then=turns)
    def the_disk_gets_full_or_has_room_again(self, room: int | None, then: int | None) -> None:
        self.world.disk.room = room
        self.then(then)

    # ------------------------------------------------------------------------------------------------------- schedulers
    @rule(turns=st.integers(1, 12))
    def a_few_steps(self, turns: int) -> None:
        self.world.turn(turns)

    @rule(which=st.integers(0, 1), then=st.integers(0, 3))
    def the_writer_commits(self, which: int, then: int) -> None:
        self.world.write(which)
        self.world.turn(then)

    @precondition(lambda self: self.world.loop.writes)
    @rule(fate=st.sampled_from(["lost_before", "lost_after"]), then=turns)
    def the_connection_is_lost_at_the_commit(self, fate: str, then: int | None) -> None:
        self.world.write(fate=fate)
        self.then(then)

    @rule(commits=st.booleans(), then=turns)
    def the_scheduler_crashes(self, *, commits: bool, then: int | None) -> None:
        life = self.world.life
        if commits:
            self.world.write()
        self.world.crash(life)
        if not isinstance(life.refusal, LogTakenError):
            self.world.restart(life)
        else:
            self.world.begin()
        self.then(then)

    @precondition(lambda self: len(self.world.lives) < _MANY_LIVES)
    @rule(then=turns)
    def a_second_scheduler_takes_the_log(self, then: int | None) -> None:
        self.world.begin()
        self.then(then)

    @precondition(lambda self: len(self.world.lives) > 1)
    @rule(pick=picks, again=st.booleans())
    def the_old_scheduler_is_asked(self, *, pick: int, again: bool) -> None:
        self.rest()
        owner = self.world.owner()
        if owner is None:
            return
        had_it = {*self.world.disk.owners} - {owner.owner.id}  # one that never had it may take it when it is restarted
        olds = [life for life in self.world.lives if life.owner.id in had_it]
        if olds:
            self.ask_the_old(self.pick(olds, pick), restarted=again)

    def teardown(self) -> None:
        """Lift all faults, crash once more, and let everything come to its end."""
        try:
            self.come_to_an_end()
        finally:
            SEEN.update(self.world.seen_events)
            self.world.end()

    # ------------------------------------------------------------------------------------------------------- the parts
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

    def come_to_an_end(self) -> None:
        world = self.world
        world.disk.room, world.orders_are_late, world.slow_starts, world.cluster.reachable = None, False, False, True
        for node_id, node in world.cluster.nodes.items():
            if node.state != "up":
                world.lose_or_return(node_id)
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
            for key in world.working():
                while key in world.working():
                    world.speak(key)
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
            for key in self.world.working():
                self.world.speak(key)

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
        self.note(life.scheduler.state.jobs.values())
        statuses = {job_id: self.world.call("status", job_id) for job_id in self.model.asked}
        listed, models = self.world.call("jobs", None, 1000, 0, None), self.world.call("models")
        self.world.settle()
        if life.serves and listed.done and listed.error is None:
            for job_id, call in statuses.items():
                self.model.see(job_id, call.answer)
            self.model.see_all(listed.answer, models.answer)

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


REACHED = {
    *(f"phase: {phase}" for phase in set(Phase) - TERMINAL_PHASES),
    *(f"event: {row_type}" for row_type in ("job_completed", "job_failed", "job_cancelled", "dataset_lost")),
    *("event: attempt_failed", "event: attempt_stopped", "event: yield_requested", "event: cancel_requested"),
    *(f"submit: {answer}" for answer in ("accepted", "IdempotencyConflictError", "InvalidJobConfigError")),
    *("submit: LogFullError", "submit: LogTakenError", "submit: ServiceError"),
    *("cancel: True", "cancel: False", "calls made again", "fenced scheduler refused", "unknown outcome"),
    *("undone: LogFullError", "undone: LogTakenError", "crash while opening", "crash between append and commit"),
    *("crash between commit and the waiters", "crash between durable and what follows"),
}
"""What the examples together must have reached, or their pass means little (I7)."""


@pytest.mark.timeout(36_000 if LONG else 1_200)  # to shrink a failure takes minutes
def test_whatever_happens_no_job_is_lost_none_runs_twice_and_all_come_to_their_end():
    SEEN.clear()

    run_state_machine_as_test(SchedulerMachine, settings=SETTINGS)

    never = {reached for reached in REACHED if not SEEN[reached]}
    assert not never, f"never reached: {never}; reached were {SEEN}"
    assert SEEN["events"] >= 20 * SETTINGS.max_examples
