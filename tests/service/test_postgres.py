"""A service whose log is in PostgreSQL, on a real cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from ftactors import JobStatus
from ftactors.core.urls import without_password
from tests.postgres import PASSWORD
from tests.service.aftermath import events_in
from tests.service.conftest import client_of, status_when

pytestmark = pytest.mark.ray


async def test_a_log_in_postgresql_outlives_its_scheduler_which_runs_anywhere_and_tells_no_password(
    services: Callable[..., Any],
    job: Callable[..., dict[str, Any]],
    postgres_url: str,
    caplog: pytest.LogCaptureFixture,
):
    async with services(log_url=postgres_url) as service:
        going = await service.submit_fine_tuning_job(job("lora", hyperparameters__max_steps=200))
        await status_when(service, going.job_id, lambda status: status.stage == "training")
        hello = await client_of(service).ask("hello")
        free = ray.available_resources()
        os.kill(hello.pid, signal.SIGKILL)
        done = await service.wait_for_job(going.job_id, timeout=120)
        again = await client_of(service).ask("hello")
        kinds = [recorded.event.type for recorded in await service.list_job_events(going.job_id)]
        told = [repr(again), repr(service.rules), *titles(), *logs_of_ray(), caplog.text]

    assert done.status is JobStatus.COMPLETED, done.error_message
    assert kinds.count("attempt_placed") == 2  # one to prepare, one to train: it was adopted
    assert again.epoch == hello.epoch + 1
    assert free["node:__internal_head__"] == 1.0  # nothing holds the scheduler there
    told += [event.model_dump_json() for event in events_in(postgres_url)]
    assert any(without_password(postgres_url) in text for text in told)  # so much is told
    as_written = postgres_url.partition("@")[0].rpartition(":")[2]
    assert [text for text in told if PASSWORD in text or as_written in text] == []


def titles() -> list[str]:
    """Return what processes are called, which everyone on the machine can read."""
    found = psutil.process_iter(["cmdline"])
    return [" ".join(process.info["cmdline"] or ()) for process in found if process.pid != os.getpid()]


def logs_of_ray() -> list[str]:
    """Return what this Ray's processes have printed, one text a file."""
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    return [file.read_text(errors="replace") for file in (session / "logs").glob("*") if file.is_file()]
