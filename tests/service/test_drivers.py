"""Drivers that are killed, on a cluster that runs on its own and on one that dies with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
LONG = {"hyperparameters__max_steps": 400, "hyperparameters__save_steps": 20, "hyperparameters__logging_steps": 1}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment of its own for Ray, with a home and a temporary directory that go with the test."""
    short = tempfile.mkdtemp(prefix="ft-", dir="/tmp")  # Ray's sockets need a short path
    yield {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": short,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_ADDRESS": "",
    }
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def settings(tmp_path: Path, base_model: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "settings.json"
        asked = {"models": {"tiny": str(base_model)}, "state_dir": str(tmp_path / "state"), **changes}
        path.write_text(json.dumps(asked))
        return path

    return write


@pytest.fixture
def job_file(tmp_path: Path, job: Callable[..., dict[str, Any]]) -> Path:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job("lora", **LONG)))
    return path


@pytest.fixture
def head(environment: dict[str, str]) -> Iterator[str]:
    """The address of a cluster that no driver owns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--head", "--block", f"--port={port}", "--num-cpus=4", "--include-dashboard=false"]
    arguments += ["--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: listens(port))
    yield f"127.0.0.1:{port}"
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    for left in psutil.wait_procs(everyone, timeout=20)[1]:
        left.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drive(environment: dict[str, str], *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.service.driver", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def kill_at_step(driver: subprocess.Popen[str], step: int) -> str:
    """Kill a driver without warning once its job has trained so far, and return the job's id."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if not line.startswith("{"):  # Ray prints there too
            continue
        status = json.loads(line)
        if (status["current_step"] or 0) >= step:
            driver.kill()
            driver.wait()
            driver.stdout.close()
            return str(status["job_id"])
    raise AssertionError("the job ended first")


def outcome(driver: subprocess.Popen[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last status that a driver printed, and what it told of the events."""
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 0
    *_, last, told = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return last, told


def test_a_job_on_a_running_cluster_survives_the_sigkill_of_its_driver(
    head: str, environment: dict[str, str], settings: Callable[..., Path], job_file: Path
):
    asked = settings(ray_address=head)
    job_id = kill_at_step(drive(environment, asked, job_file), 10)

    status, told = outcome(drive(environment, asked))

    assert (status["job_id"], status["status"], status["current_step"]) == (job_id, "completed", 400)
    assert told["events"].count("attempt_placed") == 2  # one to prepare, one to train: it never stopped
    assert "attempt_failed" not in told["events"]


def test_on_a_local_ray_the_job_goes_on_from_its_last_checkpoint_at_the_next_start(
    environment: dict[str, str], settings: Callable[..., Path], job_file: Path
):
    asked = settings(ray_address="local")
    job_id = kill_at_step(drive(environment, asked, job_file), 45)

    status, told = outcome(drive(environment, asked))

    assert (status["job_id"], status["status"], status["current_step"]) == (job_id, "completed", 400)
    assert told["resumed"][:2] == [None, None]
    assert told["resumed"][-1] >= 40
