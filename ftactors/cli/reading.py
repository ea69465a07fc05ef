"""Reading without changing anything: the service answers where it runs, else its log does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from ftactors.cli.offline import LogContent, read_log
from ftactors.cli.output import Output
from ftactors.core.errors import JobNotFoundError, LogRefusedError
from ftactors.core.events import Recorded
from ftactors.core.models import Model
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
from ftactors.core.urls import without_password
from ftactors.runtime.actor import log_url
from ftactors.runtime.client import SchedulerClient, disconnect_from_ray, join_ray
from ftactors.runtime.desk import Hello

NOT_RUNNING = "no service is running: the job goes on at the next start"
PAUSED = "the job is paused, and no service is running; `ftactors resume` lets it go on"
UNREADABLE = "the log cannot be read any further, so the job's status may be another by now; nothing goes on meanwhile"


class Reading(Protocol):
    """What can be read of jobs and models."""

    is_live: bool
    """Whether a service runs, so that what is read may change."""

    async def status(self, job_id: str) -> FineTuningJobStatusInfo:
        """Return a job's status.

        Raises:
            JobNotFoundError: there is no such job.
        """

    async def jobs(self, status: JobStatus | None, limit: int, offset: int) -> list[FineTuningJobStatusInfo]:
        """Return a page of jobs, newest first."""

    async def events(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first.

        Raises:
            JobNotFoundError: there is no such job.
        """

    async def models(self) -> list[Model]:
        """Return the registered models, oldest first."""


class LiveReading:
    """Answers of the scheduler."""

    is_live = True

    def __init__(self, client: SchedulerClient) -> None:
        self._client = client

    async def status(self, job_id: str) -> FineTuningJobStatusInfo:
        """Return a job's status, with its place in the queue."""
        status: FineTuningJobStatusInfo | None = await self._client.ask("status", job_id)
        if status is None:
            raise JobNotFoundError(f"there is no job {job_id!r}")
        return status

    async def jobs(self, status: JobStatus | None, limit: int, offset: int) -> list[FineTuningJobStatusInfo]:
        """Return a page of jobs, newest first."""
        jobs: list[FineTuningJobStatusInfo] = await self._client.ask("jobs", status, limit, offset, None)
        return jobs

    async def events(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first."""
        events: list[Recorded] = await self._client.ask("events", job_id)
        return events

    async def models(self) -> list[Model]:
        """Return the registered models, oldest first."""
        models: list[Model] = await self._client.ask("models")
        return models


class LogReading:
    """What the log says while nobody writes to it. Jobs that have not ended rest, whatever their status."""

    is_live = False

    def __init__(self, content: LogContent) -> None:
        self._state = content.state
        self._content = content

    async def status(self, job_id: str) -> FineTuningJobStatusInfo:
        """Return a job's last status."""
        status = self._state.describe(job_id)
        if status is None:
            raise JobNotFoundError(f"there is no job {job_id!r} in the log")
        if status.is_terminal:
            return status
        reason = PAUSED if status.status is JobStatus.PAUSED else NOT_RUNNING
        if self._content.damage is not None:
            reason = UNREADABLE
        return status.model_copy(update={"wait_reason": reason})

    async def jobs(self, status: JobStatus | None, limit: int, offset: int) -> list[FineTuningJobStatusInfo]:
        """Return a page of jobs, newest first."""
        known = [await self.status(job_id) for job_id in self._state.newest_first(status)]
        matching = (job for job in known if status is None or job.status == status)
        return list(islice(matching, offset, offset + limit))

    async def events(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first."""
        await self.status(job_id)
        return self._content.events(job_id)

    async def models(self) -> list[Model]:
        """Return the registered models, oldest first."""
        return list(self._state.models.values())


async def open_reading(config: ServiceConfig, output: Output | None = None) -> Reading:
    """Return the way to read: from the service that runs, else from its log. No job is placed by that.

    Where the log is damaged, what can be read is what it says up to there.

    Args:
        config: The service's configuration.
        output: Where a person is told that no service runs, and that the log is damaged.

    Raises:
        LogRefusedError: the log cannot be read at all, or is held by a process that is not on this cluster.
        ServiceError: a service runs and does not answer, or is of another version.
    """
    client, refusal = await answering_service(config)
    if client is not None:
        hello: Hello = await client.ask("hello")
        if hello.refusal is not None and output is not None:
            output.say(f"the service only answers, and places no jobs: {hello.refusal}")
        return LiveReading(client)
    url = log_url(config)
    try:
        content = await asyncio.to_thread(read_log, url)
    except LogRefusedError as error:
        raise refusal or error from None
    if output is not None:
        for line in _about(content, without_password(url), refusal):
            output.say(line)
    return LogReading(content or LogContent())


def _about(content: LogContent | None, name: str, refusal: LogRefusedError | None) -> Iterator[str]:
    """Yield what a person is told about a log that is read without a service."""
    if refusal is not None:
        yield f"the service places no jobs: {refusal}"
    elif content is None:
        yield f"no service is running; there is no log of an earlier one ({name})"
    elif content.damage is None:
        yield f"no service is running; jobs go on at the next start; this is its log ({name})"
    if content is not None and content.damage is not None:
        yield f"this is its log up to event {content.state.seq} ({name}), and no further: {content.damage}"


async def answering_service(config: ServiceConfig) -> tuple[SchedulerClient | None, LogRefusedError | None]:
    """Return the scheduler that runs and answers, or None and why the one that runs refuses, if one does."""
    try:
        return await running_service(config), None
    except LogRefusedError as refusal:
        return None, refusal


async def running_service(config: ServiceConfig) -> SchedulerClient | None:
    """Return the scheduler that runs, or None.

    Where the configuration wants a Ray of its own, it is looked for on the Ray of another driver, such as that of
    `ftactors submit` in another terminal; what serves another log is then none of ours.
    """
    is_local = config.ray_address == "local"
    if not await asyncio.to_thread(join_ray, None if is_local else config.ray_address, config.namespace):
        return None
    client = await SchedulerClient.find(config)
    if not is_local or (client is not None and await _has_log(client, log_url(config))):
        return client
    await asyncio.to_thread(disconnect_from_ray)
    return None


async def _has_log(client: SchedulerClient, url: str) -> bool:
    hello: Hello = await client.ask("hello")
    return log_url(hello.config) == without_password(url)  # a service tells no password
