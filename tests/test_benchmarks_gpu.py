"""The benchmark of GPU shares says that it needs a device, where there is none, instead of measuring something else."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_without_a_cuda_device_nothing_is_measured():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick"]

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert "this benchmark needs a CUDA device, and torch " in done.stderr.splitlines()[-1]
