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
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftactors.core.events import AttemptFailed
from ftactors.log.urls import storage_at
from ftactors.runtime.lifeline import WORKER_NAME
from tests.invariants import Ledger, check_log
from tests.service.aftermath import events_in

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


def job_at_step(driver: subprocess.Popen[str], step: int) -> str:
    """Return the id of a driver's job once that has trained so far."""
    assert driver.stdout is not None
    for line in driver.stdout:
        if not line.startswith("{"):  # Ray prints there too
            continue
        status = json.loads(line)
        if (status["current_step"] or 0) >= step:
            return str(status["job_id"])
    raise AssertionError("the job ended first")


def cluster_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return all processes of a driver's own Ray, once there are some of each kind.

    The log may know of a step that the trainer of a cluster before had come to, when this one has no trainer yet.
    """
    kinds = ("gcs_server", "raylet", "ray::TrainerActor", WORKER_NAME)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        cluster = psutil.Process(driver.pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):  # it ended since it was listed
            commands = " ".join(" ".join([process.name(), *process.cmdline()]) for process in cluster)
            if all(kind in commands for kind in kinds):
                return cluster
        time.sleep(0.05)
    raise AssertionError(f"there were never processes of all of {kinds}")


def kill(driver: subprocess.Popen[str]) -> None:
    """Kill a driver without warning."""
    assert driver.stdout is not None
    driver.kill()
    driver.wait()
    driver.stdout.close()


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
    driver = drive(environment, asked, job_file)
    job_id = job_at_step(driver, 10)
    kill(driver)

    status, told = outcome(drive(environment, asked))

    assert (status["job_id"], status["status"], status["current_step"]) == (job_id, "completed", 400)
    assert told["events"].count("attempt_placed") == 2  # one to prepare, one to train: it never stopped
    assert "attempt_failed" not in told["events"]


def test_a_local_ray_goes_with_its_driver_or_all_at_once_and_the_job_goes_on_from_its_checkpoints_on_new_ones(
    environment: dict[str, str], settings: Callable[..., Path], job_file: Path, tmp_path: Path
):
    asked = settings(ray_address="local")
    driver = drive(environment, asked, job_file)
    job_id = job_at_step(driver, 45)
    kill(driver)

    driver = drive(environment, asked)
    assert job_at_step(driver, 125) == job_id
    cluster = cluster_of(driver)
    for process in cluster:
        process.kill()
    kill(driver)

    status, told = outcome(drive(environment, asked))

    assert (status["job_id"], status["status"], status["current_step"]) == (job_id, "completed", 400)
    assert told["resumed"][:2] == [None, None]  # to prepare, and to train for the first time
    assert told["resumed"][2] >= 40
    assert told["resumed"][3] >= 120
    log = f"sqlite:///{tmp_path}/state/events.db"
    check_log(storage_at(log), Ledger(submitted={job_id: job_id}), least=30)
    failed = [(event.cause, event.counts) for event in events_in(log) if isinstance(event, AttemptFailed)]
    assert failed == [("cluster_lost", False)] * 2
    assert [process for process in cluster if is_alive(process)] == []


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process is there, and no zombie that nobody has asked for yet."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
