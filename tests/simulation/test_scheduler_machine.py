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

import math
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test

from ftactors.core.phases import TERMINAL_PHASES, Phase
from ftactors.core.work import Report
from ftactors.log.errors import LogTakenError
from tests.simulation.placement_rules import PlacementRules
from tests.simulation.play import RULES, SEEN, picks, turns
from tests.simulation.script import failing_word, missing_word, published_word, stopping_words, words_of
from tests.simulation.world import World

LONG = os.environ.get("FTACTORS_LONG") == "1"
SETTINGS = settings(
    max_examples=20_000 if LONG else 200,
    stateful_step_count=120 if LONG else 50,
    deadline=None,
    print_blob=True,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_MANY_LIVES = 6
"""With more than that behind it, an example is to spend its steps on other things."""


class SchedulerMachine(PlacementRules):
    """The rules of the game."""

    @initialize(jobs=st.integers(0, 2), rounds=st.integers(0, 12), seed=st.integers(0, 3))
    def the_service_starts(self, jobs: int, rounds: int, seed: int) -> None:
        self.world.end()
        self.world = World(seed)
        self.world.begin()
        self.world.call("start", RULES, "someone", by_owner=True)
        self.rest()
        for number in range(jobs):
            self.a_driver_submits(shape=(1, 1.0), priority=number, preemptible=False, keyed=True, then=None)
        if jobs:
            self.go_on(rounds=rounds, count=2)

    # ------------------------------------------------------------------------------------------------------- drivers
    @precondition(lambda self: self.jobs)
    @rule(pick=picks, then=turns)
    def a_driver_submits_again(self, pick: int, then: int | None) -> None:
        self.submit(self.pick(self.jobs, pick))
        self.then(then)

    @precondition(lambda self: self.jobs)
    @rule(pick=picks, kind=st.sampled_from(["same key", "other config", "same model"]), then=turns)
    def a_driver_submits_what_is_like_another_job(self, pick: int, kind: str, then: int | None) -> None:
        other = self.pick(self.jobs, pick)
        job_id = f"ftjob-{len(self.jobs) + 1}"
        changes: dict[str, object] = {"job_id": job_id, "run_dir": f"/runs/{job_id}"}
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

    @precondition(lambda self: self.world.ground.working())
    @rule(pick=picks, then=turns)
    def a_trainer_goes_on(self, pick: int, then: int | None) -> None:
        self.world.ground.speak(self.pick(self.world.ground.working(), pick))
        self.then(then)

    @precondition(lambda self: self.world.ground.working())
    @rule(
        pick=picks,
        how=st.sampled_from(["retryable", "for good", "ignores the stop", "stops"]),
        then=turns,
    )
    def a_trainer_ends(self, pick: int, how: str, then: int | None) -> None:
        key = self.pick(self.world.ground.working(), pick)
        trainer = self.world.ground.trainer(key)
        trains = trainer.work is not None and trainer.work.purpose == "train"
        if how == "ignores the stop" and trains:
            self.world.ground.say(key, published_word())
        elif how == "stops":
            self.world.ground.say(key, *stopping_words(trainer))
        else:
            self.world.ground.say(key, failing_word(retryable=how == "retryable"))
        self.then(then)

    @precondition(lambda self: self.training())
    @rule(pick=picks, then=turns)
    def a_trainer_finds_its_data_gone(self, pick: int, then: int | None) -> None:
        self.world.ground.say(self.pick(self.training(), pick), missing_word())
        self.then(then)

    @precondition(lambda self: self.world.ground.working())
    @rule(pick=picks, how=st.sampled_from(["again", "an old number", "a number too high", "impossible"]), then=turns)
    def a_trainer_talks_nonsense(self, pick: int, how: str, then: int | None) -> None:
        key = self.pick(self.world.ground.working(), pick)
        trainer = self.world.ground.trainer(key)
        word = words_of(trainer.work)[0] if trainer.work else failing_word(retryable=True)
        if how == "again":
            self.world.ground.say(key, word, word)
        elif how == "impossible":
            wrong = (
                published_word() if trainer.work and trainer.work.purpose == "prepare" else stopping_words(trainer)[-1]
            )
            self.world.ground.say(key, wrong)
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
            self.world.ground.die(self.pick(keys, pick), leaves_a_trace=trace)
        self.then(then)

    @rule(slow=st.booleans())
    def trainers_start_slowly_or_not(self, *, slow: bool) -> None:
        self.world.ground.slow_starts = slow
        self.rest()

    @rule(rounds=st.integers(1, 6), count=st.integers(1, 4))
    def all_goes_well_for_a_while(self, rounds: int, count: int) -> None:
        self.go_on(rounds=rounds, count=count)

    # ------------------------------------------------------------------------------------------------------- cluster
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
        self.short_until = self.world.loop.time() + 5.0 if room is None else math.inf
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

    @precondition(lambda self: self.jobs and self.world.life.serves and len(self.world.lives) < _MANY_LIVES)
    @rule(pick=picks)
    def a_driver_submits_again_to_a_scheduler_whose_log_is_being_taken(self, pick: int) -> None:
        old, job = self.world.life, self.pick(self.jobs, pick)
        self.world.begin()
        for _ in range(4):
            self.world.turn(3)
            self.world.write(which=1)
        self.model.submitting(job)
        self.submits.append((self.world.call("submit", job, life=old), job))
        self.rest()

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


REACHED = {
    *(f"phase: {phase}" for phase in set(Phase) - TERMINAL_PHASES),
    *(f"event: {row_type}" for row_type in ("job_completed", "job_failed", "job_cancelled", "dataset_lost")),
    *("event: attempt_failed", "event: attempt_stopped", "event: yield_requested", "event: cancel_requested"),
    *(f"submit: {answer}" for answer in ("accepted", "IdempotencyConflictError", "InvalidJobConfigError")),
    *("submit: LogFullError", "submit: LogTakenError", "submit: ServiceError"),
    *("cancel: True", "cancel: False", "calls made again", "fenced scheduler refused", "unknown outcome"),
    *("undone: LogFullError", "undone: LogTakenError", "crash while opening", "crash between append and commit"),
    *("crash between commit and the waiters", "crash between durable and what follows"),
    *("gang started", "gang on several nodes", "resumed with smaller batches", "yield: preempted", "yield: draining"),
    *("failed: out_of_memory", "failed: node_lost", "failed: trainer_lost", "checked that the first may not go"),
}
"""What the examples together must have reached, or their pass means little (I7)."""


@pytest.mark.timeout(36_000 if LONG else 1_200)  # to shrink a failure takes minutes
def test_whatever_happens_no_job_is_lost_none_runs_twice_and_all_come_to_their_end():
    SEEN.clear()

    run_state_machine_as_test(SchedulerMachine, settings=SETTINGS)

    never = {reached for reached in REACHED if not SEEN[reached]}
    assert not never, f"never reached: {never}; reached were {SEEN}"
    assert SEEN["events"] >= 20 * SETTINGS.max_examples
