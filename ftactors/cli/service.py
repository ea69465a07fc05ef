"""Commands about the service itself."""

from __future__ import annotations

import asyncio

from ftactors.cli.app import command
from ftactors.cli.options import AsJson, ConfigFile
from ftactors.cli.output import Output
from ftactors.cli.session import service_config, service_for
from ftactors.core.service_config import ServiceConfig


@command("ftactors stop")
def stop(*, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Stop the service: jobs that train write a checkpoint, and all go on at the next start.

    Whatever starts the service starts it again, such as `ftactors submit`.
    """
    output = Output.here(as_json=as_json)
    was_running = asyncio.run(_stopped(service_config(config), output))
    if as_json:
        output.document({"stopped": was_running})
    else:
        output.line("the service is stopped" if was_running else "no service is running")


async def _stopped(config: ServiceConfig, output: Output) -> bool:
    """Stop the service; return whether one was running."""
    from ftactors.cli.reading import answering_service
    from ftactors.runtime.client import SchedulerClient

    running, refusal = await answering_service(config)
    if running is None and refusal is None:
        return False
    if (why := await SchedulerClient.end_refusing(config.namespace)) is not None:
        output.say(f"the service could write nothing, and there was nothing to wait for: {why}")
        return True
    async with service_for(config, stays=True) as service:
        await service.stop(force=True)
    return True


@command("ftactors config --config service.yaml", "ftactors config > service.yaml", name="config")
def show_config(*, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print the service's configuration as it would be in force, with all its defaults, as YAML.

    A service that runs already keeps the configuration that it was started with.
    """
    effective = service_config(config).told()
    output = Output.here(as_json=as_json)
    if as_json:
        output.document(effective)
        return
    import yaml

    output.line(yaml.safe_dump(effective.model_dump(mode="json"), sort_keys=False).rstrip())
