"""Services on a Ray that has the machine's own CUDA devices; `pytest -m gpu` runs these tests and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.local_ray import local_ray
from tests.service.conftest import base_model, data, job, services

__all__ = ["base_model", "data", "job", "services"]  # fixtures, for the tests beside this file
_CPUS = 8  # mere numbers to Ray: three jobs and a preparation at a time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs two devices where there are fewer: that is no test of this machine."""
    wanting = [item for item in items if "two_devices" in getattr(item, "fixturenames", ())]
    if wanting and _devices() < 2:
        config.hook.pytest_deselected(items=wanting)
        items[:] = [item for item in items if item not in wanting]


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """The address of the one Ray of this test run, which counts the devices that are there."""
    import ray

    with local_ray(cpus=_CPUS, gpus=_devices()):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture
def two_devices() -> int:
    """How many devices there are: at least two."""
    return _devices()


def _devices() -> int:
    import torch

    return torch.cuda.device_count()
