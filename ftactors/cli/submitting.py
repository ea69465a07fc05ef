"""Submitting and following, on a cluster or on a Ray of the command's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftactors.cli.lines import progress_line
from ftactors.cli.output import Output
from ftactors.cli.reading import open_reading
from ftactors.cli.session import service_for, service_meanwhile, tell_what_goes_on
from ftactors.cli.watching import follow, show_ending
from ftactors.core.errors import ServiceError
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo
from ftactors.jobfile import read_job_file
from ftactors.preview import JobPreview
from ftactors.service import LLMFineTuningService


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be submitted, and how."""

    job: Path
    wait: bool | None = None
    """None: only where it must."""
    idempotency_key: str | None = None


async def dry(ask: Ask, config: ServiceConfig, output: Output) -> JobPreview:
    """Return what the job would do; nothing is queued.

    Raises:
        InvalidJobConfigError, ModelNotFoundError, JobExecutionError: as the job would fail.
    """
    asked = read_job_file(ask.job)  # a file that cannot be read needs no Ray to be refused
    async with service_meanwhile(config, output) as service:
        return await service.preview_job(asked)


async def submitted(ask: Ask, config: ServiceConfig, output: Output) -> list[FineTuningJobStatusInfo]:
    """Submit a job, follow it where that is asked for or needed, and return the last status of what was followed.

    Raises:
        InvalidJobConfigError, ModelNotFoundError: nothing was queued.
        ServiceError: there is no cluster where the job could go on by itself, but that was asked for.
    """
    asked = read_job_file(ask.job)
    await tell_what_goes_on(await open_reading(config), output)
    async with service_for(config, stays=True) as service:
        return await submit_to(service, asked, ask, output)


async def submit_to(
    service: LLMFineTuningService, asked: Mapping[str, Any], ask: Ask, output: Output
) -> list[FineTuningJobStatusInfo]:
    """Submit a job to a service that runs; as `submitted`.

    A pipe gets the job's id first and alone, for the shell to keep: what becomes of the job goes to stderr.
    """
    if service.owns_ray and ask.wait is False:
        raise ServiceError(
            "no Ray cluster runs here, so the job would stop when this command ends: start a cluster with "
            "`ray start --head`, or leave out --no-wait"
        )
    status = await service.submit_fine_tuning_job(asked, ask.idempotency_key)
    if not ask.wait and not service.owns_ray:
        _tell_submitted(status, output)
        return []
    if output.to_person:
        output.say(f"job {status.job_id} is {status.status}")
    elif not output.as_json:
        output.line(status.job_id)
        output = replace(output, is_aside=True)
    return await followed(service, [status.job_id], output)


async def watched(job_ids: Sequence[str], config: ServiceConfig, output: Output) -> list[FineTuningJobStatusInfo]:
    """Follow jobs to their ends, and return their last statuses.

    Raises:
        JobNotFoundError: there is no such job.
    """
    reading = await open_reading(config, output)
    known = [await reading.status(job_id) for job_id in dict.fromkeys(job_ids)]
    if all(status.is_terminal for status in known):
        _show_all(known, output)
        return known
    async with service_for(config, stays=True) as service:
        return await followed(service, [status.job_id for status in known], output)


async def followed(
    service: LLMFineTuningService, job_ids: Sequence[str], output: Output
) -> list[FineTuningJobStatusInfo]:
    """Show jobs until they have ended, and return their last statuses; tell what becomes of them at an interrupt."""
    if service.owns_ray:
        output.say("no Ray cluster runs here: this command has a Ray of its own, and stays until the job has ended")
    try:
        last = await follow([service.watch_job(job_id) for job_id in job_ids], output)
    except asyncio.CancelledError:
        again = f"`ftactors watch {' '.join(job_ids)}`"
        if service.owns_ray:
            output.say(
                f"interrupted: the job writes a checkpoint and rests; it goes on at the next start, as by {again}"
            )
        else:
            output.say(f"no longer watched: the job goes on; {again} follows it again")
        raise
    if output.to_person:
        for status in last:
            show_ending(status, output)
    return last


def _tell_submitted(status: FineTuningJobStatusInfo, output: Output) -> None:
    if output.as_json:
        output.document(status)
    elif output.to_person:
        output.line(f"job {status.job_id} is {status.status}; `ftactors watch {status.job_id}` follows it")
    else:
        output.line(status.job_id)


def _show_all(statuses: Sequence[FineTuningJobStatusInfo], output: Output) -> None:
    for status in statuses:
        if output.as_json:
            output.document(status)
        elif output.to_person:
            show_ending(status, output)
        else:
            output.line(progress_line(status))
