"""The service for the time of one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ftactors.cli.output import Output
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import JobStatus
from ftactors.jobfile import load_service_config

if TYPE_CHECKING:
    from ftactors.cli.reading import Reading
    from ftactors.service import LLMFineTuningService

_GO_ON = (JobStatus.QUEUED, JobStatus.PREPROCESSING, JobStatus.RUNNING)
"""The statuses of jobs that a service takes up again when it starts."""
_ALL = 1_000_000


def service_config(path: Path | None) -> ServiceConfig:
    """Return the configuration in a file, in the one that FTACTORS_CONFIG names, or the defaults.

    Raises:
        InvalidServiceConfigError: with every problem.
    """
    return load_service_config(path)


@asynccontextmanager
async def service_for(config: ServiceConfig, *, stays: bool) -> AsyncIterator[LLMFineTuningService]:
    """Start or join the service, and leave it as is right for the command.

    On a Ray of its own it is stopped: jobs write a checkpoint and go on at the next start. On a cluster it is left
    running where it ran before.

    Args:
        config: The service's configuration.
        stays: Whether it is left running on a cluster where the command made it, too.
    """
    from ftactors.models import LLMModelManager
    from ftactors.runtime.client import ray_address
    from ftactors.service import LLMFineTuningService

    service = LLMFineTuningService(LLMModelManager(), config)
    await service.start()
    if not service.owns_ray:
        typer.echo(f"joined the Ray cluster at {ray_address()}", err=True)
    try:
        yield service
    finally:
        await _leave(service, stays=stays)


@asynccontextmanager
async def service_meanwhile(config: ServiceConfig, output: Output) -> AsyncIterator[LLMFineTuningService]:
    """Start or join the service for something that has nothing to do with jobs; one that ran before stays.

    Where none runs, the jobs that rest in its log go on for so long, and a person is told so.

    Raises:
        LogRefusedError: the log is damaged, too new, or held by a process that is not on this cluster.
    """
    from ftactors.cli.reading import open_reading

    await tell_what_goes_on(await open_reading(config), output)
    async with service_for(config, stays=False) as service:
        yield service


async def tell_what_goes_on(reading: Reading, output: Output) -> None:
    """Tell which jobs a service for the time of one command takes up again, where none runs yet."""
    if reading.is_live:
        return
    resting = [job.job_id for status in _GO_ON for job in await reading.jobs(status, _ALL, 0)]
    if resting:
        output.say(f"no service runs, so this command starts one, and jobs go on until it ends: {', '.join(resting)}")


async def _leave(service: LLMFineTuningService, *, stays: bool) -> None:
    if service.owns_ray or (service.owns_scheduler and not stays):
        await service.stop()
    else:
        await service.detach()
