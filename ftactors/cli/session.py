"""The service for the time of one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftactors.core.service_config import ServiceConfig
from ftactors.jobfile import load_service_config

if TYPE_CHECKING:
    from ftactors.service import LLMFineTuningService


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
    from ftactors.service import LLMFineTuningService

    service = LLMFineTuningService(LLMModelManager(), config)
    await service.start()
    try:
        yield service
    finally:
        await _leave(service, stays=stays)


async def _leave(service: LLMFineTuningService, *, stays: bool) -> None:
    if service.owns_ray or (service.owns_scheduler and not stays):
        await service.stop()
    else:
        await service.detach()
