"""The Ray of a benchmark: its own, quiet, and gone at the end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import ray

_ROOT = Path(__file__).parents[1]
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # a token would be written to the home directory
    "RAY_enable_metrics_collection": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def local_ray(*, cpus: int = 2, gpus: int = 0, dashboard: bool = False) -> Iterator[str]:
    """Start a Ray, give its dashboard's address, and end it with all that runs on it.

    Args:
        cpus: How many it is to think that there are.
        gpus: And of these; `-m gpu` tests and benchmarks name as many as there are.
        dashboard: Whether jobs can be submitted to it.
    """
    temporary = tempfile.mkdtemp(prefix="ft-", dir="/tmp")  # Ray's sockets need a short path
    os.environ.update(_QUIET)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    with redirect_stdout(sys.stderr):  # Ray tells of every actor that was killed; standard output is the table's
        context = ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=dashboard,
            dashboard_port=0,
            _temp_dir=temporary,
            log_to_driver=False,
            namespace="benchmarks",
        )
        try:
            yield f"http://{context.dashboard_url}" if dashboard else ""
        finally:
            ray.shutdown()
            shutil.rmtree(temporary, ignore_errors=True)
