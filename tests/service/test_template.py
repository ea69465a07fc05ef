"""The warm template under a service: attempts fork from it, its death costs them nothing, it goes with the service."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftactors import JobStatus
from ftactors.runtime.node_agent import is_agent
from tests.service import gates
from tests.service.aftermath import actors_of, templates_of
from tests.service.conftest import until

pytestmark = pytest.mark.ray


async def test_all_attempts_of_a_service_fork_from_one_template_and_none_is_lost_when_it_is_killed(
    services: Callable[..., Any], job: Callable[..., dict[str, Any]]
):
    async with services() as service:
        namespace = service.config.namespace
        service._get_trainer_factory = lambda _: gates.TRAINER
        gated = await service.submit_fine_tuning_job(job(metadata={"gates": "20"}))
        await until(lambda: gates.is_reached(gated.run_dir, "20"))
        (template,) = templates_of(namespace)

        os.kill(int(template.split()[1]), signal.SIGKILL)
        await until(lambda: templates_of(namespace) not in ([], [template]))
        gates.open_gate(gated.run_dir, "20")
        done = await service.wait_for_job(gated.job_id, timeout=90)
        later = await service.wait_for_job((await service.submit_fine_tuning_job(job())).job_id, timeout=90)

        assert (done.status, later.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED), later.error_message
        events = [recorded.event.type for recorded in await service.list_job_events(gated.job_id)]
        assert events.count("attempt_placed") == 2  # one prepared, and one trained to the end
        logs = [
            path.read_text() for status in (done, later) for path in Path(status.run_dir).glob("attempts/*/train.log")
        ]
        assert len(logs) == 4
        assert not any("starts slowly" in log for log in logs)
        assert [name for name in actors_of(namespace) if is_agent(name)] != []
    assert actors_of(namespace) == []
