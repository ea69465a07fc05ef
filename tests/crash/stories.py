"""Stories of jobs: what drivers ask, what trainers do, and how it must end wherever the scheduler is killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ftactors.core.events import JobSubmitted, ModelImported
from ftactors.core.job import Job
from ftactors.core.phases import Phase
from ftactors.core.seen import Node, ProcessKey
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.core.work import (
    CheckpointWritten,
    DatasetMissing,
    Evaluated,
    Failed,
    Prepared,
    Progress,
    Published,
    StageBegun,
    Work,
)
from tests.core.histories import BASE, JOB, NODE, submitted
from tests.crash.cluster import OutlivingCluster, Part, Script, Turn
from tests.crash.driver import Driver

OTHER = "ftjob-2"
COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED

PREPARES: tuple[Part, ...] = (
    (StageBegun(stage="preparing", index=1, of=1),),
    (Prepared(path="/data", fingerprint="f", shape="text", counts={"train_rows": 8}),),
)
BEGINS: Part = (StageBegun(stage="training", index=1, of=2, total_steps=9), Progress(stage="training", step=2))
SAVES: Part = (CheckpointWritten(stage="training", step=5, path="/c/5", digest="d"), Progress(stage="training", step=6))
EVALUATES: Part = (Evaluated(of="tuned", stage="evaluating", step=9, metrics={"loss": 1.0}),)
PUBLISHING: Part = (StageBegun(stage="publishing", index=2, of=2),)
PUBLISHES: Part = (Published(path="/m", digest="d", kind="adapter", base=BASE, metrics={"loss": 1}, trained_tokens=9),)
TRAINS: tuple[Part, ...] = (BEGINS, SAVES, EVALUATES, PUBLISHES)
BREAKS: Part = (Failed(error_type="internal", message="it broke", retryable=True),)
DIVERGES: Part = (Failed(error_type="diverged", message="the loss was nan"),)
RUNS_OUT_OF_MEMORY: Part = (Failed(stage="training", error_type="out_of_memory", message="no room for a step"),)
LOSES_DATA: Part = (DatasetMissing(path="/data", message="it is gone"),)


def quick(work: Work) -> Script:
    """Prepare or train, and say no more than that it is done."""
    return Script(PREPARES[-1:] if work.purpose == "prepare" else TRAINS[-1:])


def in_full(work: Work) -> Script:
    """Prepare or train, and tell all about it."""
    return Script(PREPARES if work.purpose == "prepare" else TRAINS)


def training(*parts: Part, attempts: tuple[int, ...] = (2,), heeds_stop: bool = True) -> Callable[[Work], Script]:
    """Return the quick script, but for the training in these attempts."""

    def script(work: Work) -> Script:
        other = work.purpose == "train" and work.attempt in attempts
        return Script(parts, heeds_stop) if other else quick(work)

    return script


@dataclass(frozen=True)
class Story:
    """One story, for any number of crashes.

    Args:
        tell: What drivers ask for once the service was started. It is told again from its beginning after each crash.
        least: How many events it makes at the least, however it is killed.
        script: What trainers do.
        rules: What of the service's configuration is not as usual.
        comes_up: Whether a trainer ever comes up.
        meanwhile: What happens on the cluster while no scheduler is there.
        nodes: The cluster's.
        snapshot_every: After so many events a snapshot is taken; None: there are none.
        on: The databases that it can be told on.
        every: Of its places, so many are one that is tried in CI.
    """

    tell: Callable[[Driver], Awaitable[None]]
    least: int
    script: Callable[[Work], Script] = quick
    rules: dict[str, Any] = field(default_factory=dict)
    comes_up: Callable[[ProcessKey], bool] = lambda _: True
    meanwhile: Callable[[OutlivingCluster], None] = OutlivingCluster.go_on_alone
    nodes: tuple[Node, ...] = (NODE,)
    snapshot_every: int | None = None
    on: tuple[str, ...] = ("sqlite", "postgresql")
    every: int = 1

    @property
    def name(self) -> str:
        """What the test is called after."""
        return self.tell.__name__

    @property
    def service_config(self) -> ServiceConfig:
        """The rules in force."""
        return ServiceConfig(retry_backoff_seconds=0, job_queue_poll_interval_seconds=0.01, **self.rules)


async def a_job_is_prepared_trained_and_published(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.ended(JOB, COMPLETED)


async def two_jobs_take_turns(driver: Driver) -> None:
    await driver.submit(submitted(new_model_id="one"))
    await driver.submit(submitted(OTHER, new_model_id="two", priority=1))
    await driver.ended(JOB, COMPLETED)
    await driver.ended(OTHER, COMPLETED)


async def a_queued_job_is_cancelled(driver: Driver) -> None:
    await driver.submit(submitted(new_model_id="one"))
    await driver.until(JOB, _has_begun)
    await driver.submit(submitted(OTHER, new_model_id="two"))
    assert await driver.cancel(OTHER, "r1")
    await driver.ended(OTHER, CANCELLED)
    assert await driver.cancel(JOB, "r2")
    await driver.ended(JOB, CANCELLED)


async def a_preparing_job_is_cancelled(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _has_begun)
    assert await driver.cancel(JOB, "r1")
    await driver.ended(JOB, CANCELLED)
    assert not await driver.cancel(JOB, "r2")


async def a_training_job_is_cancelled(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _trains)
    assert await driver.cancel(JOB, "r1")
    await driver.ended(JOB, CANCELLED)


async def a_trainer_that_does_not_stop_is_killed(driver: Driver) -> None:
    await a_training_job_is_cancelled(driver)


async def a_cancel_races_the_published_model(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, lambda job: job.stage == "publishing")
    cancelled = await driver.cancel(JOB, "r1")
    assert await driver.ended(JOB, CANCELLED, COMPLETED) is (CANCELLED if cancelled else COMPLETED)


async def a_trainer_dies_and_its_job_resumes(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.ended(JOB, COMPLETED)


async def a_job_fails_for_good(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.ended(JOB, FAILED)


async def a_job_is_retried_until_it_failed_often_enough(driver: Driver) -> None:
    await driver.submit(submitted(max_attempts=2))
    await driver.ended(JOB, FAILED)


async def a_job_is_paused_and_resumed(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _trains)
    await driver.pause(JOB)
    await driver.until(JOB, lambda job: job.phase is Phase.READY or job.attempts > 2)
    await driver.resume(JOB)
    await driver.ended(JOB, COMPLETED)


async def the_service_is_stopped_and_started_again(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _trains)
    await driver.stop()
    await driver.start("second")
    await driver.ended(JOB, COMPLETED)


async def the_service_is_stopped_and_rests(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _has_begun)
    await driver.stop()


async def a_model_is_imported_tuned_and_deleted(driver: Driver) -> None:
    imported = ModelImported(model_id="base", source="/models/base", path="/models/base", digest="d", owned=False)
    base = BASE.model_copy(update={"registered_seq": await driver.import_model(imported), "source": "registered"})
    await driver.submit(submitted().model_copy(update={"base": base}))
    await driver.ended(JOB, COMPLETED)
    await driver.delete_model("tuned")


async def a_submit_is_made_again_and_again(driver: Driver) -> None:
    for job_id in (JOB, JOB, OTHER):
        assert await driver.submit(submitted(job_id, key="k")) == JOB
    assert await driver.submit(_of_another_config(submitted("ftjob-3", key="k"))) == "IdempotencyConflictError"
    await driver.ended(JOB, COMPLETED)


async def a_node_is_lost_while_a_job_trains_on_it(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _trains)
    driver.lose_node_of(JOB)
    await driver.ended(JOB, COMPLETED)


async def the_cluster_goes_with_the_scheduler(driver: Driver) -> None:
    await driver.submit(submitted(max_attempts=1))  # what the cluster took with it counts for nothing
    await driver.ended(JOB, COMPLETED)


async def prepared_data_is_lost(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.ended(JOB, COMPLETED)


async def a_trainer_never_comes_up(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.ended(JOB, COMPLETED)


async def a_gang_loses_a_rank_and_resumes(driver: Driver) -> None:
    await driver.submit(submitted(resources=TWO_RANKS))
    await driver.ended(JOB, COMPLETED)


async def a_gang_yields_to_a_job_of_higher_priority(driver: Driver) -> None:
    await driver.submit(submitted(new_model_id="one", resources=TWO_RANKS, preemptible=True))
    await driver.until(JOB, _trains)
    await driver.submit(submitted(OTHER, new_model_id="two", priority=1))
    await driver.ended(OTHER, COMPLETED)
    await driver.ended(JOB, COMPLETED)


async def a_node_drains_under_a_job(driver: Driver) -> None:
    await driver.submit(submitted())
    await driver.until(JOB, _trains)
    driver.drain_node_of(JOB)
    await driver.ended(JOB, COMPLETED)


async def a_job_that_ran_out_of_memory_goes_on_with_smaller_batches(driver: Driver) -> None:
    await driver.submit(submitted(max_attempts=2))
    await driver.ended(JOB, COMPLETED)


async def snapshots_are_taken_of_two_jobs(driver: Driver) -> None:
    await two_jobs_take_turns(driver)


async def the_disk_is_full_for_a_while(driver: Driver) -> None:
    large = submitted(OTHER, new_model_id="two").model_copy(update={"warnings": ("x" * 100_000,)})
    await driver.submit(submitted(new_model_id="one"))
    await driver.until(JOB, _trains)
    await driver.fill_disk()
    await driver.be_refused(large)
    await driver.free_disk()
    await driver.submit(large)
    assert await driver.cancel(JOB, "r1")
    await driver.ended(JOB, CANCELLED)
    await driver.ended(OTHER, COMPLETED)


def _has_begun(job: Job) -> bool:
    return job.started_at is not None


def _trains(job: Job) -> bool:
    return job.training_started_at is not None


def _of_another_config(asked: JobSubmitted) -> JobSubmitted:
    return asked.model_copy(update={"config_digest": "another"})


def _waits_in_preparation(work: Work) -> Script:
    return Script((PREPARES[0], Turn.WAIT)) if work.purpose == "prepare" else quick(work)


def _waits_in_the_first_job(work: Work) -> Script:
    return training(BEGINS, Turn.WAIT)(work) if work.job_id == JOB else quick(work)


TWO_RANKS = {"num_workers": 2, "num_gpus": 1}
_NODE_B = Node(node_id="node-b", gpus=1, cpus=8, free_gpu_thousandths=1000, free_cpus=8)

STORIES = (
    Story(a_job_is_prepared_trained_and_published, least=14, script=in_full),
    Story(two_jobs_take_turns, least=15),
    Story(
        a_queued_job_is_cancelled,
        least=9,
        script=_waits_in_preparation,
        rules={"max_concurrent_preparations": 1},
    ),
    Story(a_preparing_job_is_cancelled, least=6, script=_waits_in_preparation),
    Story(a_training_job_is_cancelled, least=9, script=training(BEGINS, Turn.WAIT)),
    Story(
        a_trainer_that_does_not_stop_is_killed,
        least=9,
        script=training(BEGINS, Turn.WAIT, heeds_stop=False),
        rules={"cancel_grace_seconds": 0.02, "kill_margin_seconds": 0.02},
    ),
    Story(a_cancel_races_the_published_model, least=10, script=training(PUBLISHING, PUBLISHES, heeds_stop=False)),
    Story(a_trainer_dies_and_its_job_resumes, least=11, script=training(BEGINS, SAVES, Turn.DIE)),
    Story(a_job_fails_for_good, least=10, script=training(BEGINS, DIVERGES)),
    Story(a_job_is_retried_until_it_failed_often_enough, least=11, script=training(BREAKS, attempts=(2, 3))),
    Story(a_job_is_paused_and_resumed, least=14, script=training(BEGINS, Turn.WAIT)),
    Story(the_service_is_stopped_and_started_again, least=14, script=training(BEGINS, Turn.WAIT)),
    Story(the_service_is_stopped_and_rests, least=7, script=_waits_in_preparation),
    Story(a_model_is_imported_tuned_and_deleted, least=10),
    Story(a_submit_is_made_again_and_again, least=8),
    Story(
        a_node_is_lost_while_a_job_trains_on_it,
        least=9,
        script=training(BEGINS, Turn.WAIT),
        nodes=(NODE, _NODE_B),
    ),
    Story(the_cluster_goes_with_the_scheduler, least=14, script=in_full, meanwhile=OutlivingCluster.begin_anew),
    Story(prepared_data_is_lost, least=14, script=training(LOSES_DATA)),
    Story(
        a_trainer_never_comes_up,
        least=10,
        comes_up=lambda key: key.attempt != 1,
        rules={"start_timeout_seconds": 0.05},
    ),
    Story(
        a_gang_loses_a_rank_and_resumes,
        least=12,
        script=training(BEGINS, SAVES, Turn.LOSE_A_RANK),
        every=2,
        nodes=(replace(NODE, gpus=1), _NODE_B),
    ),
    Story(
        a_gang_yields_to_a_job_of_higher_priority,
        least=19,
        script=_waits_in_the_first_job,
        every=2,
        rules={"max_concurrent_fine_tuning_jobs": 2},
    ),
    Story(
        a_node_drains_under_a_job,
        least=13,
        script=training(BEGINS, Turn.WAIT),
        every=2,
        nodes=(NODE, _NODE_B),
    ),
    Story(
        a_job_that_ran_out_of_memory_goes_on_with_smaller_batches,
        least=11,
        script=training(BEGINS, RUNS_OUT_OF_MEMORY),
        every=2,
    ),
    Story(snapshots_are_taken_of_two_jobs, least=15, snapshot_every=4),
    Story(
        the_disk_is_full_for_a_while,
        least=15,
        script=_waits_in_the_first_job,
        on=("sqlite",),
    ),
)
