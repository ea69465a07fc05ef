"""Starting and stopping: what fails halfway, and what two drivers do at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftactors import LLMFineTuningService, LLMModelManager, ModelNotFoundError
from ftactors.core.errors import LogRefusedError, ServiceNotStartedError
from tests.service.aftermath import actors_of
from tests.service.conftest import client_of

pytestmark = pytest.mark.ray


async def test_a_start_that_fails_leaves_the_service_unstarted_and_can_be_repeated(
    ray_session: str, base_model: Path, tmp_path: Path
):
    settings = {"state_dir": str(tmp_path / "state"), "namespace": "fails-halfway"}
    manager = LLMModelManager({"nothing": str(tmp_path / "nowhere")})
    service = LLMFineTuningService(manager, settings)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        await service.start()
    with pytest.raises(ServiceNotStartedError):
        await service.list_fine_tuning_jobs()

    again = LLMFineTuningService(LLMModelManager({"tiny": str(base_model)}), settings)
    await again.start()
    assert [model.model_id for model in await again.model_manager.list_models()] == ["tiny"]
    await again.stop(force=True)


async def test_stopping_what_is_not_started_does_nothing(tmp_path: Path):
    service = LLMFineTuningService(LLMModelManager(), {"state_dir": str(tmp_path)})

    await service.stop()


async def test_a_log_that_is_refused_leaves_no_scheduler_and_opens_once_it_is_mended(
    services: Callable[..., Any], tmp_path: Path
):
    database = tmp_path / "state" / "events.db"
    async with services() as service:
        namespace = service.config.namespace
    older = database.read_bytes()
    async with services():
        pass
    database.write_bytes(older)  # a backup put back: its witness remembers more

    with pytest.raises(LogRefusedError, match="witness"):
        async with services():
            pass
    async with asyncio.timeout(10):
        while actors_of(namespace):
            await asyncio.sleep(0.05)
    database.with_name("events.db.witness").unlink()
    async with services() as service:
        assert await service.list_fine_tuning_jobs() == []


async def test_a_joining_driver_brings_its_base_models_and_leaves_the_service_running(
    services: Callable[..., Any], base_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with services() as service:
        settings = {"namespace": service.config.namespace, "max_concurrent_fine_tuning_jobs": 7}
        guest = LLMFineTuningService(LLMModelManager({"mine": str(base_model)}), settings)
        await guest.start()
        assert "max_concurrent_fine_tuning_jobs=1, not 7" in caplog.text
        assert guest.rules.max_concurrent_fine_tuning_jobs == 1
        assert {model.model_id for model in await guest.model_manager.list_models()} == {"tiny", "mine"}
        await guest.stop()

        assert "leaves it running" in caplog.text
        assert await service.list_fine_tuning_jobs() == []


async def test_a_driver_that_starts_while_another_stops_keeps_its_service(services: Callable[..., Any]):
    async with services() as service:
        client = client_of(service)
        await client.ask("stop", "the first")
        other = LLMFineTuningService(LLMModelManager(), {"namespace": service.config.namespace})
        await other.start()

        assert await client.ask("wait_stopped") == "started"
        assert not await client.close_scheduler()
        assert await other.list_fine_tuning_jobs() == []
        await other.detach()
