"""What a person is told who stops watching a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from ftactors.cli.output import Output
from ftactors.cli.submitting import followed
from ftactors.core.status import FineTuningJobStatusInfo
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
