"""Commands that change what becomes of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import typer

from ftactors.cli.app import command
from ftactors.cli.edge import ExitCode
from ftactors.cli.options import AsJson, ConfigFile, JobId
from ftactors.cli.output import Output
from ftactors.cli.session import service_config, service_for
from ftactors.core.errors import JobStateError
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

if TYPE_CHECKING:
    from ftactors.service import LLMFineTuningService

Ask = Callable[["LLMFineTuningService"], Awaitable[FineTuningJobStatusInfo]]


@command("ftactors cancel ftjob-0123456789ab")
def cancel(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Cancel a job: at once where it waits, at its next step where it runs.

    Exit code 4 where the job has completed or failed before.
    """

    async def cancelled(service: LLMFineTuningService) -> FineTuningJobStatusInfo:
        await service.cancel_fine_tuning_job(job_id)
        if service.owns_ray:  # what is not cancelled when this command ends would be so at the next start only
            return await service.wait_for_job(job_id)
        return await anext(service.watch_job(job_id))

    output = Output.here(as_json=as_json)
    found = asyncio.run(_changed(job_id, service_config(config), output, cancelled))
    if as_json:
        output.document(found)
    if found.status in (JobStatus.COMPLETED, JobStatus.FAILED):
        output.say(f"job {job_id} is {found.status}: there is nothing to cancel")
        raise typer.Exit(ExitCode.UNAVAILABLE)
    if not as_json:
        output.line(f"job {job_id} is {'cancelled' if found.is_terminal else 'being cancelled'}")


@command("ftactors pause ftjob-0123456789ab")
def pause(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Let a job wait until it is resumed; if it trains, it writes a checkpoint and gives its share back."""

    async def paused(service: LLMFineTuningService) -> FineTuningJobStatusInfo:
        return await service.pause_fine_tuning_job(job_id)

    output = Output.here(as_json=as_json)
    found = asyncio.run(_changed(job_id, service_config(config), output, paused, "paused"))
    _tell(found, f"job {job_id} is {'paused' if found.status is JobStatus.PAUSED else 'being paused'}", output)


@command("ftactors resume ftjob-0123456789ab")
def resume(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Let a paused job go on from its checkpoint."""

    async def resumed(service: LLMFineTuningService) -> FineTuningJobStatusInfo:
        return await service.resume_fine_tuning_job(job_id)

    output = Output.here(as_json=as_json)
    found = asyncio.run(_changed(job_id, service_config(config), output, resumed, "resumed", stays=True))
    _tell(found, f"job {job_id} is {found.status}", output)


async def _changed(
    job_id: str, config: ServiceConfig, output: Output, ask: Ask, what: str | None = None, *, stays: bool = False
) -> FineTuningJobStatusInfo:
    """Ask something of the service about a job, and return the job's status after it.

    No service is started for a job that there is not, or that has ended.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has ended, and `what` was asked of it; without that its last status is the answer.
    """
    from ftactors.cli.reading import open_reading

    reading = await open_reading(config)
    known = await reading.status(job_id)
    if known.is_terminal and what is not None:
        raise JobStateError(f"job {job_id!r} is {known.status}: it cannot be {what}")
    if known.is_terminal:
        return known
    async with service_for(config, stays=stays) as service:
        if service.owns_ray:
            output.say("no service was running: this starts and stops one; `ftactors watch ID` lets jobs go on")
        return await ask(service)


def _tell(status: FineTuningJobStatusInfo, line: str, output: Output) -> None:
    if output.as_json:
        output.document(status)
    else:
        output.line(line)
