"""What a person is told who stops watching a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftactors.cli.output import Output
from ftactors.cli.submitting import Ask, followed, submit_to
from ftactors.core.status import FineTuningJobStatusInfo
from tests.configs import job
from tests.core import histories as h
from tests.test_cli_lines import TRAINING, status


@dataclass
class Training:
    """A service whose job trains for ever."""

    owns_ray: bool
    is_watched: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch_job(self, job_id: str) -> AsyncIterator[FineTuningJobStatusInfo]:
        yield status(*TRAINING).model_copy(update={"job_id": job_id})
        self.is_watched.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("owns_ray", "told"),
    [
        (True, "interrupted: the job writes a checkpoint and rests; it goes on at the next start"),
        (False, "no longer watched: the job goes on"),
    ],
)
async def test_who_interrupts_the_watching_is_told_what_becomes_of_the_job(owns_ray, told, capsys):
    service = Training(owns_ray)
    watching = asyncio.create_task(followed(service, ["ftjob-1"], Output()))  # type: ignore[arg-type]
    await asyncio.wait_for(service.is_watched.wait(), 10)
    watching.cancel()  # as asyncio.run does at Ctrl-C
    with pytest.raises(asyncio.CancelledError):
        await watching

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(told)
    assert "`ftactors watch ftjob-1`" in last


FAILED = status(*TRAINING, h.job_failed())


@dataclass
class Failing:
    """A service whose job, submitted before by the same key, has failed."""

    owns_ray: bool

    async def submit_fine_tuning_job(self, *_: object) -> FineTuningJobStatusInfo:
        return FAILED

    async def watch_job(self, _job_id: str) -> AsyncIterator[FineTuningJobStatusInfo]:
        yield status(*TRAINING)
        yield FAILED


async def submit(service: Failing, *, wait: bool | None = None, as_json: bool = False) -> list[FineTuningJobStatusInfo]:
    ask = Ask(Path("job.yaml"), wait=wait)
    return await submit_to(service, job(), ask, Output(as_json=as_json))  # type: ignore[arg-type]


@pytest.mark.parametrize(("owns_ray", "wait"), [(True, None), (False, True)])
async def test_a_pipe_that_waits_gets_the_jobs_id_alone_and_the_progress_aside(owns_ray, wait, capsys):
    waited_for = await submit(Failing(owns_ray), wait=wait)

    told = capsys.readouterr()
    assert told.out == "ftjob-1\n"
    assert "ftjob-1 running" in told.err
    assert "ftjob-1 failed" in told.err
    assert waited_for == [FAILED]


async def test_a_failure_of_a_job_that_was_not_waited_for_is_none_of_the_commands(capsys):
    assert await submit(Failing(owns_ray=False)) == []
    assert capsys.readouterr().out == "ftjob-1\n"


async def test_a_program_that_waits_gets_each_status_as_a_line_and_nothing_else(capsys):
    await submit(Failing(owns_ray=True), as_json=True)

    statuses = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert statuses == ["running", "failed"]
