"""A log that is damaged, on a real cluster: refused by name, readable up to the damage, and no restart loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ftactors import JobStatus, LLMFineTuningService
from ftactors.cli.edge import ExitCode
from ftactors.log.errors import LogDamagedError
from ftactors.runtime.client import SchedulerClient
from tests.service.aftermath import actors_of
from tests.service.conftest import client_of

pytestmark = pytest.mark.ray
NOTHING_IS_PLACED = {"preparation_num_cpus": 1000}


class Damage:
    """A byte of an event that is changed in the database's file, whoever has it open, and changed back."""

    def __init__(self, database: Path, seq: int, text: str) -> None:
        with closing(sqlite3.connect(database)) as connection:
            (payload,) = connection.execute("SELECT payload FROM events WHERE seq = ?", (seq,)).fetchone()
        self._file = database
        self._at = database.read_bytes().index(payload.encode()) + payload.index(text)
        self._byte = text[0].encode()

    def do(self) -> None:
        self._write(b"\x23")

    def undo(self) -> None:
        self._write(self._byte)

    def _write(self, byte: bytes) -> None:
        with self._file.open("r+b") as file:
            file.seek(self._at)
            file.write(byte)


async def test_a_damaged_log_is_refused_by_name_stays_readable_and_is_not_opened_in_a_loop(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]], tmp_path: Path
):
    async with services(**NOTHING_IS_PLACED) as service:
        namespace = service.config.namespace
        sound, broken, late = [await service.submit_fine_tuning_job(job()) for _ in range(3)]
        seq = (await service.list_job_events(broken.job_id))[0].seq
    damage = Damage(tmp_path / "state" / "events.db", seq, broken.job_id)

    damage.do()
    with pytest.raises(LogDamagedError, match=f"event {seq} is not what was written"):
        async with services(**NOTHING_IS_PLACED):
            pass
    assert actors_of(namespace) == []
    damage.undo()

    async with services(**NOTHING_IS_PLACED) as service:
        before = await client_of(service).ask("hello")
        damage.do()  # while it is open: only who opens it again can see
        os.kill(before.pid, signal.SIGKILL)
        await it_refuses_and_stays(service, seq, readable=sound.job_id, unreadable=(broken.job_id, late.job_id))
        await service.stop(force=True)  # to mend the log, one needs it closed
        assert actors_of(namespace) == []
        damage.undo()

    async with services(**NOTHING_IS_PLACED) as service:
        jobs = [found.job_id for found in await service.list_fine_tuning_jobs()]
        assert jobs == [late.job_id, broken.job_id, sound.job_id]
        assert await service.cancel_fine_tuning_job(broken.job_id)
        assert (await client_of(service).ask("hello")).epoch == before.epoch + 2  # it was opened once to be refused


async def test_the_command_stop_ends_a_scheduler_that_can_write_nothing_and_tells_why(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]], ray_session: str, tmp_path: Path
):
    async with services(**NOTHING_IS_PLACED) as service:
        namespace = service.config.namespace
        submitted = await service.submit_fine_tuning_job(job())
        seq = (await service.list_job_events(submitted.job_id))[0].seq
    damage = Damage(tmp_path / "state" / "events.db", seq, submitted.job_id)

    async with services(**NOTHING_IS_PLACED) as service:
        assert await SchedulerClient.end_refusing(namespace) is None  # it can write, and is left alone
        before = await client_of(service).ask("hello")
        damage.do()
        os.kill(before.pid, signal.SIGKILL)
        assert (await client_of(service).ask("hello")).refusal is not None

        stopped = await asyncio.to_thread(stop_command, ray_session, namespace, tmp_path)
        assert actors_of(namespace) == []
        again = await asyncio.to_thread(stop_command, ray_session, namespace, tmp_path)
        assert await SchedulerClient.end_refusing(namespace) is None  # there is none
        damage.undo()
        await service.detach()

    assert (stopped.returncode, stopped.stdout) == (ExitCode.OK, "the service is stopped\n"), stopped.stderr
    assert "the service could write nothing" in stopped.stderr
    assert f"event {seq} is not what was written" in stopped.stderr
    assert (again.returncode, again.stdout) == (ExitCode.OK, "no service is running\n"), again.stderr


def stop_command(address: str, namespace: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `ftactors stop`."""
    file = directory / "service.json"
    settings = {"ray_address": address, "namespace": namespace, "state_dir": str(directory / "state")}
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "ftactors.cli", "stop", "--config", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


async def it_refuses_and_stays(
    service: LLMFineTuningService, seq: int, *, readable: str, unreadable: tuple[str, ...]
) -> None:
    """Check what a refusing scheduler does and does not."""
    found = await SchedulerClient.find(service.config)
    assert found is not None
    hello = await found.ask("hello")
    assert f"event {seq} is not what was written" in hello.refusal

    status = await found.ask("status", readable)
    assert status.status is JobStatus.QUEUED
    assert f"event {seq}" in status.wait_reason
    assert [event.event.type for event in await found.ask("events", readable)] == ["job_submitted"]
    assert [job_id for job_id in unreadable if await found.ask("status", job_id)] == []
    refused = await asyncio.gather(
        service.cancel_fine_tuning_job(readable),
        service.pause_fine_tuning_job(readable),
        service.resume_fine_tuning_job(readable),
        service.model_manager.delete_model("tiny"),
        return_exceptions=True,
    )
    assert [(type(error), error.seq) for error in refused] == [(LogDamagedError, seq)] * len(refused)
    assert (await found.ask("hello")).pid == hello.pid
