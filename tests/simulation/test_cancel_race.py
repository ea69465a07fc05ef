"""A cancel that races the completion of its job, a thousand times: one end, and the answer to the canceller is true.

What happens in which order is drawn from a seed: whether the trainer says that its model is published before or after
the cancel is asked for, how many steps the scheduler makes between the two, how many of its writes the disk has done,
and whether the scheduler crashes in between. A failure names its seed: `race(seed)` does it again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from ftactors.core.phases import Phase
from ftactors.core.seen import ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.log.memory import MemoryStorage
from tests.core.histories import JOB, submitted
from tests.invariants import Ledger, check_live, check_log
from tests.simulation.process import Call
from tests.simulation.script import published_word
from tests.simulation.world import World

RACES = 1_000
TRAINER = ProcessKey(JOB, 2, 0)
ENDS = {"job_completed", "job_cancelled", "job_failed"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a race ended."""

    end: str
    crashed: bool
    answered_first: bool
    """Whether the canceller had its answer before the crash, or needed no second call."""


def come_to_train(world: World) -> None:
    """Let a job come so far that its trainer has only to say that its model is published."""
    world.begin()
    world.call("start", ServiceConfig(), "someone", by_owner=True)
    world.call("submit", submitted())
    for _ in range(4):
        world.settle()
        for key in world.ground.working():
            if key != TRAINER:
                world.ground.speak(key)
        world.pass_time(2.0, wakes=1)
    assert world.life.scheduler is not None
    assert world.life.scheduler.state.jobs[JOB].phase is Phase.RUNNING
    assert world.cluster.trainers[TRAINER].work is not None


def go_on(world: World, random: Random) -> None:
    """Let some steps be made, and some writes be done."""
    for _ in range(random.randrange(8)):
        if random.random() < 0.7:
            world.turn(1)
        else:
            world.write()


def cancel(world: World) -> Call:
    return world.call("cancel", JOB, "request", "someone")


def race(seed: int) -> Outcome:
    """Let a cancel race the completion of its job; check all that must hold."""
    with World() as world:
        return _race(seed, world)


def _race(seed: int, world: World) -> Outcome:
    random = Random(seed)
    come_to_train(world)
    published_first, crashes = random.random() < 0.7, random.random() < 0.4
    if published_first:
        world.ground.say(TRAINER, published_word())
        go_on(world, random)
        call = cancel(world)
    else:
        call = cancel(world)
        go_on(world, random)
        world.ground.say(TRAINER, published_word())
    go_on(world, random)
    first = call.answer
    if crashes:
        world.crash(world.life)
        world.restart(world.life)
    world.settle()
    again = cancel(world)  # the reply may have been lost, so the same call is made again
    world.settle()
    world.pass_time(10.0)
    answers = {call.answer, again.answer} - {None}
    assert len(answers) == 1, f"seed {seed}: the canceller was told {first}, and then {again.answer}"
    accepted = answers.pop()

    assert world.life.scheduler is not None
    check_live(world.life.scheduler)
    state = check_log(MemoryStorage(world.disk), Ledger({JOB: JOB}, {(JOB, "request"): accepted}), least=9)
    ends = [row.type for row in world.disk.rows if row.type in ENDS]
    assert ends == (["job_cancelled"] if accepted else ["job_completed"]), f"seed {seed}: told {accepted}, and {ends}"
    assert bool(state.models) is not accepted, f"seed {seed}: told {accepted}, and the models are {[*state.models]}"
    assert not world.cluster.trainers, f"seed {seed}: {world.cluster.trainers} lives on"
    return Outcome(ends[0], crashes, first is not None)


def test_a_thousand_cancels_that_race_completion_end_once_and_as_the_canceller_was_told():
    outcomes = Counter(race(seed) for seed in range(RACES))

    for end in ("job_completed", "job_cancelled"):  # else the race was none
        for crashed in (False, True):
            for answered_first in (False, True):
                found = outcomes[Outcome(end, crashed, answered_first)]
                assert found >= 10, f"{found} of {RACES} races ended so: {end}, {crashed=}, {answered_first=}"
