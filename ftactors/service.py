"""What a driver calls: submit jobs, follow them, cancel them. All state is the scheduler's; this is a way to ask it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import (
    InvalidJobConfigError,
    JobNotFoundError,
    LogRefusedError,
    ModelNotFoundError,
    ServiceNotStartedError,
)
from ftactors.core.events import Recorded
from ftactors.core.feasible import ClusterFacts
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
from ftactors.jobfile import load_service_config
from ftactors.models import LLMModelManager
from ftactors.preview import JobPreview, preview
from ftactors.runtime.client import SchedulerClient, connect_to_ray, disconnect_from_ray
from ftactors.runtime.desk import Hello
from ftactors.runtime.whoami import whoami
from ftactors.submission import Factories, Submission, digest_of, plan_submission

_LOG = logging.getLogger(__name__)
_STOP_MARGIN_S = 30.0

JobConfigLike = FineTuningJobConfig | Mapping[str, Any] | str | Path
"""A job's configuration, or the path of a YAML or JSON file of it."""


class LLMFineTuningService:
    """Fine-tuning jobs on a Ray cluster.

    Args:
        model_manager: Knows the base models, and gets the tuned ones.
        global_config: The service's configuration; a service that runs already keeps its own.

    Raises:
        InvalidServiceConfigError: with every problem of `global_config`.
    """

    def __init__(
        self, model_manager: LLMModelManager, global_config: ServiceConfig | Mapping[str, Any] | None = None
    ) -> None:
        self.model_manager = model_manager
        self.config = load_service_config(global_config)
        """What this driver asks for."""
        self.rules = self.config
        """What is in force: of a service that ran before, its own."""
        self._client: SchedulerClient | None = None
        self._owns_ray = False

    @property
    def owns_ray(self) -> bool:
        """Whether `start()` started a Ray of its own, which ends with this driver."""
        return self._owns_ray

    @property
    def owns_scheduler(self) -> bool:
        """Whether `start()` made the scheduler; else it joined a service that ran already."""
        return self._client is not None and self._client.created

    async def start(self) -> None:
        """Join or start Ray, find or make the scheduler, and let it place jobs. Jobs of earlier runs go on.

        Raises:
            ServiceUnavailableError: no cluster answers at `ray_address`, or the scheduler does not answer.
            VersionMismatchError: the running scheduler is of another version of ftactors.
            LogRefusedError: the event log is owned by another scheduler, damaged, or too new.
        """
        if self._client is not None:
            return
        self._owns_ray |= await asyncio.to_thread(connect_to_ray, self.config.ray_address, self.config.namespace)
        try:
            client = await SchedulerClient.connect(self.config)
            asked = self._absolute()
            hello: Hello = await client.ask("hello")
            running = hello.config if hello.places and not client.created else asked
            await self.model_manager.attach(client, asked.model_copy(update={"state_dir": running.state_dir}))
            self.rules = await client.ask("start", asked, whoami(), by_owner=client.created)
        except LogRefusedError:
            if client.created:  # it can record nothing, and would keep the log from whoever mends it
                await client.close_scheduler()
            await self.detach()
            raise
        except BaseException:
            await self.detach()
            raise
        self._client = client
        self._tell_differences()

    async def stop(self, *, force: bool = False) -> None:
        """Let all trainers checkpoint and stop; their jobs go on at the next start.

        A driver that joined a service which another one started only detaches, unless `force` is set.
        """
        client = self._client
        if client is None:
            return
        if not client.created and not force:
            _LOG.warning(
                "this driver joined a running service and leaves it running; stop(force=True) or `ftactors stop` end it"
            )
        else:
            await self._stop(client)
        await self.detach()

    async def _stop(self, client: SchedulerClient) -> None:
        """Wait until all trainers have stopped, as long as their graces allow, and end the scheduler."""
        try:
            await client.ask("stop", whoami())
        except LogRefusedError as error:  # whoever mends the log needs it closed
            _LOG.warning("the scheduler ends, and what it follows is not told to stop: %s", error)
            await client.close_scheduler()
            return
        graces_s = max(self.rules.stop_grace_seconds, self.rules.cancel_grace_seconds)
        deadline = asyncio.get_running_loop().time() + graces_s + self.rules.kill_margin_seconds + _STOP_MARGIN_S
        while (how := await client.ask("wait_stopped")) == "stopping":
            if asyncio.get_running_loop().time() > deadline:
                _LOG.warning("some trainers have not stopped in time; they end once nobody asks for their reports")
                break
            _LOG.info("waiting for trainers to checkpoint and stop")
        if how == "started" or not await client.close_scheduler():
            _LOG.warning("the service was started again by another driver while it stopped, and goes on")

    async def detach(self) -> None:
        """Leave the service running and forget it. A Ray that `start()` itself started ends with that."""
        self._client = None
        self.model_manager.detach()
        if self._owns_ray:
            self._owns_ray = False
            await asyncio.to_thread(disconnect_from_ray)

    async def submit_fine_tuning_job(
        self, config: JobConfigLike, idempotency_key: str | None = None
    ) -> FineTuningJobStatusInfo:
        """Accept a job and return its status; from then on it survives this driver.

        Args:
            config: The job, a mapping of its fields, or the path of a YAML or JSON file.
            idempotency_key: The same key and configuration again return the same job.

        Raises:
            InvalidJobConfigError: with every problem of the configuration; nothing was queued.
            ModelNotFoundError: there is no such base model; nothing was queued.
            IdempotencyConflictError: the key was used for another configuration.
        """
        client = self._started()
        try:
            submission = await self._plan(config)
        except ModelNotFoundError:  # the job may have been accepted before its base model was deleted
            known = idempotency_key and await client.ask("job_of_key", idempotency_key, await digest_of(config))
            if not known:
                raise
            return cast("FineTuningJobStatusInfo", known)
        submitted = submission.event(f"ftjob-{uuid4().hex[:12]}", idempotency_key, by=whoami())
        status: FineTuningJobStatusInfo = await client.ask("submit", submitted)
        return status

    async def preview_job(self, config: JobConfigLike) -> JobPreview:
        """Return what the job would do: its data read, tokenized and counted on this machine, and nothing queued.

        Raises:
            InvalidJobConfigError, ModelNotFoundError: as `submit_fine_tuning_job` would.
            JobExecutionError: the data cannot be prepared.
        """
        submission = await self._plan(config)
        return await preview(submission)

    async def get_job_status(self, job_id: str) -> FineTuningJobStatusInfo | None:
        """Return a job's status; None where there is no such job."""
        status: FineTuningJobStatusInfo | None = await self._started().ask("status", job_id)
        return status

    async def list_fine_tuning_jobs(
        self, status_filter: str | None = None, limit: int = 100, offset: int = 0, after: str | None = None
    ) -> list[FineTuningJobStatusInfo]:
        """Return a page of the jobs, newest first.

        Args:
            status_filter: Only jobs of this status.
            limit: At most so many, 1 or more.
            offset: Leave out so many of the newest.
            after: Only jobs older than this one, which a page may end with.

        Raises:
            ValueError: the filter is no status, or a number is out of range.
            JobNotFoundError: there is no job `after`.
        """
        client = self._started()
        status = _status(status_filter)
        if limit < 1 or offset < 0:
            raise ValueError(f"limit must be 1 or more and offset 0 or more (got limit={limit}, offset={offset})")
        if after is not None and await self.get_job_status(after) is None:
            raise JobNotFoundError(f"there is no job {after!r}")
        jobs: list[FineTuningJobStatusInfo] = await client.ask("jobs", status, limit, offset, after)
        return jobs

    async def cancel_fine_tuning_job(self, job_id: str) -> bool:
        """Return whether the job is, or will be, cancelled; False for one that is unknown or has ended."""
        accepted: bool = await self._started().ask("cancel", job_id, uuid4().hex, whoami())
        return accepted

    async def pause_fine_tuning_job(self, job_id: str) -> FineTuningJobStatusInfo:
        """Let a job wait until it is resumed. If it trains, it checkpoints and gives its share back.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has ended or is being cancelled.
        """
        status: FineTuningJobStatusInfo = await self._started().ask("pause", job_id, uuid4().hex, whoami())
        return status

    async def resume_fine_tuning_job(self, job_id: str) -> FineTuningJobStatusInfo:
        """Let a paused job go on from its checkpoint.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has ended or is being cancelled.
        """
        status: FineTuningJobStatusInfo = await self._started().ask("resume", job_id, uuid4().hex, whoami())
        return status

    async def watch_job(self, job_id: str) -> AsyncIterator[FineTuningJobStatusInfo]:
        """Yield a job's status, and then each time it has changed, until it has ended.

        Raises:
            JobNotFoundError: there is no such job.
        """
        seq = 0
        last: FineTuningJobStatusInfo | None = None
        while last is None or not last.is_terminal:
            status: FineTuningJobStatusInfo
            seq, status = await self._started().ask("watch", job_id, seq)
            if status != last:
                yield status
            last = status

    async def wait_for_job(self, job_id: str, timeout: float | None = None) -> FineTuningJobStatusInfo:
        """Return a job's status once it has ended.

        Args:
            job_id: The job.
            timeout: Seconds to wait at most; None: as long as it takes.

        Raises:
            JobNotFoundError: there is no such job.
            TimeoutError: it has not ended in time; it goes on.
        """
        async with asyncio.timeout(timeout):
            async for status in self.watch_job(job_id):
                last = status
        return last

    async def list_job_events(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first.

        Raises:
            JobNotFoundError: there is no such job.
        """
        events: list[Recorded] = await self._started().ask("events", job_id)
        return events

    async def cluster(self) -> ClusterFacts:
        """Return what the cluster has: nodes, GPUs, CPUs."""
        facts: ClusterFacts = await self._started().ask("cluster")
        return facts

    def _get_trainer_factory(self, method: str) -> str | type:
        """Return the trainer for a method: a class, or its import path. To be overridden."""
        return Factories.trainer(method)

    def _get_dataset_handler_factory(self, source_type: str) -> str | type:
        """Return the handler for a source type: a class, or its import path. To be overridden."""
        return Factories.handler(source_type)

    async def _plan(self, config: JobConfigLike) -> Submission:
        client = self._started()
        factories = Factories(self._get_trainer_factory, self._get_dataset_handler_factory)
        plan = partial(plan_submission, config, self.model_manager, self.rules, factories)
        cluster = await client.ask("cluster")
        try:
            return await plan(cluster=cluster)
        except InvalidJobConfigError as error:
            if not any(problem.field.startswith("resources") for problem in error.problems):
                raise
        return await plan(cluster=await client.ask("cluster", anew=True))  # a node may just have come that has it

    def _started(self) -> SchedulerClient:
        if self._client is None:
            raise ServiceNotStartedError("the service is not started; call `await service.start()` first")
        return self._client

    def _absolute(self) -> ServiceConfig:
        """Return the configuration with paths that mean the same in every process."""
        state_dir = _absolute(self.config.state_dir)
        roots, models = self.config.allowed_roots, self.config.base_models
        return self.config.model_copy(
            update={
                "state_dir": state_dir,
                "runs_dir": _absolute(self.config.runs_dir or f"{state_dir}/runs"),
                "allowed_roots": roots and [_absolute(root) for root in roots],
                "base_models": {model_id: _absolute_if_there(source) for model_id, source in models.items()},
            }
        )

    def _tell_differences(self) -> None:
        """Warn of what this driver asked for and the running service does not do."""
        asked = self._absolute().told()
        for name in sorted(self.config.model_fields_set - {"base_models", "ray_address"}):
            ours, theirs = getattr(asked, name), getattr(self.rules, name)
            if ours != theirs:
                _LOG.warning("the running service has %s=%r, not %r as asked here; its own rules", name, theirs, ours)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _absolute_if_there(source: str) -> str:
    """Return a model's source: absolute where it is a path, as it is where it is a hub id."""
    return _absolute(source) if Path(source).expanduser().exists() else source


def _status(status_filter: str | None) -> JobStatus | None:
    if status_filter is None:
        return None
    try:
        return JobStatus(status_filter)
    except ValueError:
        raise ValueError(
            f"status_filter must be one of {', '.join(JobStatus)}, or None (got {status_filter!r})"
        ) from None
