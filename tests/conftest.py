"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.postgres import PostgresServer, running_server

ROOT = Path(__file__).parents[1]

# A busy machine makes no test wrong, so examples have no deadline; a failure prints how to see it again.
hypothesis.settings.register_profile("ftactors", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ftactors")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """The address of the one Ray of this test run: 8 CPUs and 4 GPUs, which are only numbers to it."""
    import ray

    from ftactors.runtime.client import log_messages_of_ray

    temporary = tempfile.mkdtemp(prefix="ft-", dir="/tmp")  # Ray's sockets need a short path
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # a token would be written to the home directory
        "RAY_enable_metrics_collection": "0",
        "RAY_prestart_worker_first_driver": "0",  # 8 idle processes
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # for its workers
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in quiet.items():
            environment.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=8,
            num_gpus=4,
            include_dashboard=False,
            _temp_dir=temporary,
            log_to_driver=False,
            namespace="ftactors",
        )
        log_messages_of_ray()
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The one PostgreSQL server of this test run."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a new database, for `log_url`."""
    with postgres.fresh() as database:
        yield postgres.url(database)
