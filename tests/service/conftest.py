"""Services on the one Ray of the test run, each with its own namespace, state and leftovers to answer for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from ray.cluster_utils import Cluster

from ftactors import LLMFineTuningService, LLMModelManager
from ftactors.core.events import AnyEvent
from ftactors.core.status import FineTuningJobStatusInfo
from ftactors.runtime.actor import log_url
from ftactors.runtime.client import SchedulerClient
from ftactors.runtime.whoami import whoami
from tests import tiny
from tests.invariants import Ledger
from tests.service.aftermath import check_aftermath, note_answers
from tests.service.nodes import Nodes

QUICK = {"job_queue_poll_interval_seconds": 0.5, "retry_backoff_seconds": 0.2, "stop_grace_seconds": 30}


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learned its language, so that adapters have something to adapt."""
    return tiny.pretrain(tiny.make_model_dir(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a training and a held-out file of facts."""
    directory = tmp_path_factory.mktemp("data")
    for name, count, seed in (("train", 96, 0), ("validation", 24, 1)):
        rows = (json.dumps(record) for record in tiny.records(count, seed))
        (directory / f"{name}.jsonl").write_text("\n".join(rows))
    return directory


@pytest.fixture
def job(data: Path) -> Callable[..., dict[str, Any]]:
    """Make a job's configuration: quick, on the tiny model; a name with dots changes a part of it."""

    def make(method: str = "lora", **changes: Any) -> dict[str, Any]:
        config: dict[str, Any] = {
            "job_name": "a test",
            "base_model_id": "tiny",
            "new_model_id": f"tuned-{uuid4().hex[:8]}",
            "dataset_config": {
                "source_type": "file_path",
                "path_or_id": str(data),
                "validation_split_name": "validation",
            },
            "fine_tuning_technique": {"method": method},
            "hyperparameters": {
                "max_steps": 40,
                "learning_rate": 3e-3,
                "per_device_train_batch_size": 8,
                "logging_steps": 5,
            },
            "resources": {"num_gpus": 0},
        }
        for path, value in changes.items():
            part = config
            *parents, name = path.split("__")
            for parent in parents:
                part = part.setdefault(parent, {})
            part[name] = value
        return config

    return make


@pytest.fixture
def nodes(ray_cluster: Cluster) -> Iterator[Nodes]:
    """Nodes to add, lose and drain; those that are left go after the test."""
    added = Nodes(ray_cluster)
    yield added
    added.remove_all()


@pytest.fixture
def services(ray_session: str, base_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Open a service for an `async with`; opened again in the same test, it has the same state.

    Whenever it has stopped, its log, what drivers were told, and what is left on the cluster are checked.
    """
    namespace, ledger = f"test-{uuid4().hex[:8]}", Ledger()

    @asynccontextmanager
    async def opened(**config: Any) -> AsyncIterator[LLMFineTuningService]:
        settings = {**QUICK, "state_dir": str(tmp_path / "state"), "namespace": namespace, **config}
        service = LLMFineTuningService(LLMModelManager({"tiny": str(base_model)}), settings)
        await service.start()
        note_answers(client_of(service), ledger)
        try:
            yield service
        finally:
            await service.stop(force=True)
        await check_aftermath(log_url(service.config), ledger, namespace=namespace, directory=tmp_path)

    return opened


@pytest.fixture
async def service(services: Callable[..., Any]) -> AsyncIterator[LLMFineTuningService]:
    """A service that runs."""
    async with services() as running:
        yield running


def client_of(service: LLMFineTuningService) -> SchedulerClient:
    """Return the service's own way to its scheduler, once it has started."""
    assert service._client is not None
    return service._client


async def status_when(
    service: LLMFineTuningService,
    job_id: str,
    condition: Callable[[FineTuningJobStatusInfo], bool],
    seconds: float = 90.0,
) -> FineTuningJobStatusInfo:
    """Return a job's first status that fulfils a condition; fails when the job ends before, or after so long."""
    async with asyncio.timeout(seconds):
        async for status in service.watch_job(job_id):
            if condition(status):
                return status
    raise AssertionError(f"the job ended first: {status}")


async def event_when(
    service: LLMFineTuningService, job_id: str, condition: Callable[[AnyEvent], bool], seconds: float = 90.0
) -> AnyEvent:
    """Return a job's first event that fulfils a condition, once there is one; fails after so long without."""
    seq = 0
    async with asyncio.timeout(seconds):
        while True:
            for recorded in await service.list_job_events(job_id):
                if condition(recorded.event):
                    return recorded.event
            seq, _ = await client_of(service).ask("watch", job_id, seq)


async def waits_because(service: LLMFineTuningService, job_id: str, words: str, seconds: float = 90.0) -> None:
    """Return once these words are in a job's reason to wait, which changes without an event; fails after so long."""
    async with asyncio.timeout(seconds):
        while (status := await service.get_job_status(job_id)) is None or words not in (status.wait_reason or ""):
            await asyncio.sleep(0.05)


async def change_rules(service: LLMFineTuningService, **rules: Any) -> None:
    """Let the running service go by other rules from now on."""
    changed = service.rules.model_copy(update=rules)
    await client_of(service).ask("start", changed, whoami(), by_owner=True)


async def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Return once a condition holds; fails after so long without."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
