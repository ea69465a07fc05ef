"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.postgres import PostgresServer, running_server

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]

# A busy machine makes no test wrong, so examples have no deadline; a failure prints how to see it again.
hypothesis.settings.register_profile("ftactors", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ftactors")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """The one Ray of this test run, to which tests add nodes; its head has 8 CPUs and 4 GPUs, mere numbers to it."""
    import ray
    from ray.cluster_utils import Cluster

    from ftactors.runtime.client import log_messages_of_ray

    temporary = tempfile.mkdtemp(prefix="ft-", dir="/tmp")  # Ray's sockets need a short path
    address_of_current = Path(temporary, "ray", "ray_current_cluster")
    quiet = {
        "RAY_TMPDIR": temporary,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # a token would be written to the home directory
        "RAY_enable_metrics_collection": "0",
        "RAY_prestart_worker_first_driver": "0",  # 8 idle processes
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),  # for its workers
        # That a raylet was killed is seen after 2 s, by its workers too, and not after 17; a slow answer is no death.
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "500",
        "RAY_raylet_death_check_interval_milliseconds": "500",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in quiet.items():
            environment.setenv(name, value)
        head = {"num_cpus": 8, "num_gpus": 4, "include_dashboard": False, "include_log_monitor": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        address_of_current.unlink()  # nobody joins it who was not told its address
        ray.init(address=cluster.address, log_to_driver=False, namespace="ftactors")
        log_messages_of_ray()
        yield cluster
        ray.shutdown()
        cluster.shutdown()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session(ray_cluster: Cluster) -> str:
    """The address of the one Ray of this test run."""
    address: str = ray_cluster.address
    return address


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
