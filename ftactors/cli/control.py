"""Commands that change what becomes of jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from ftactors.cli.app import command
from ftactors.cli.edge import ExitCode
from ftactors.cli.options import AsJson, ConfigFile, JobId
from ftactors.cli.output import Output
from ftactors.cli.session import service_config, service_for
from ftactors.core.errors import JobNotFoundError
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus

if TYPE_CHECKING:
    from ftactors.service import LLMFineTuningService


@command("ftactors cancel ftjob-0123456789ab")
def cancel(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Cancel a job: at once where it waits, at its next step where it runs.

    Exit code 4 where the job has completed or failed before.
    """

    async def cancelled(output: Output) -> tuple[bool, FineTuningJobStatusInfo]:
        async with service_for(service_config(config), stays=False) as service:
            accepted = await service.cancel_fine_tuning_job(job_id)
            found = await service.get_job_status(job_id)
            if found is None:
                raise JobNotFoundError(f"there is no job {job_id!r}")
            _tell_of_own_ray(service, output)
            return accepted, found

    output = Output(as_json=as_json)
    accepted, found = asyncio.run(cancelled(output))
    if as_json:
        output.document(found)
    elif accepted or found.status is JobStatus.CANCELLED:
        output.line(f"job {job_id} is {'cancelled' if found.is_terminal else 'being cancelled'}")
    if not accepted and found.status is not JobStatus.CANCELLED:
        output.say(f"job {job_id} is {found.status}: there is nothing to cancel")
        raise typer.Exit(ExitCode.UNAVAILABLE)


@command("ftactors pause ftjob-0123456789ab")
def pause(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Let a job wait until it is resumed; if it trains, it writes a checkpoint and gives its share back."""

    async def paused(output: Output) -> FineTuningJobStatusInfo:
        async with service_for(service_config(config), stays=False) as service:
            found = await service.pause_fine_tuning_job(job_id)
            _tell_of_own_ray(service, output)
            return found

    output = Output(as_json=as_json)
    found = asyncio.run(paused(output))
    _tell(found, f"job {job_id} is {'paused' if found.status is JobStatus.PAUSED else 'being paused'}", output)


@command("ftactors resume ftjob-0123456789ab")
def resume(job_id: JobId, *, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Let a paused job go on from its checkpoint."""

    async def resumed(output: Output) -> FineTuningJobStatusInfo:
        async with service_for(service_config(config), stays=True) as service:
            found = await service.resume_fine_tuning_job(job_id)
            _tell_of_own_ray(service, output)
            return found

    output = Output(as_json=as_json)
    found = asyncio.run(resumed(output))
    _tell(found, f"job {job_id} is {found.status}", output)


def _tell(status: FineTuningJobStatusInfo, line: str, output: Output) -> None:
    if output.as_json:
        output.document(status)
    else:
        output.line(line)


def _tell_of_own_ray(service: LLMFineTuningService, output: Output) -> None:
    if service.owns_ray:
        output.say(
            "no service was running: it was started for this, and stops again; `ftactors watch ID` lets a job go on"
        )
