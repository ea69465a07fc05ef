"""Which job the demo runs, and what it leaves for the next one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.feasible import ClusterFacts
from ftactors.core.seen import Node
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
from ftactors.demo import Demo, begun_job
from ftactors.demo_data import DemoData
from ftactors.jobfile import read_job_file
from ftactors.models.own_process import command_of, environment
from tests.core import histories as h
from tests.test_cli_lines import TRAINING, status


@dataclass
class Service:
    """A service that knows the jobs of earlier runs."""

    jobs: list[FineTuningJobStatusInfo]
    resumed: list[str] = field(default_factory=list)
    submitted: list[FineTuningJobConfig] = field(default_factory=list)

    async def list_fine_tuning_jobs(self, *, limit: int) -> list[FineTuningJobStatusInfo]:
        return self.jobs[:limit]

    async def resume_fine_tuning_job(self, job_id: str) -> None:
        self.resumed.append(job_id)

    async def submit_fine_tuning_job(self, config: FineTuningJobConfig) -> FineTuningJobStatusInfo:
        self.submitted.append(config)
        return status(*TRAINING).model_copy(update={"job_id": "ftjob-new"})

    async def cluster(self) -> ClusterFacts:
        return ClusterFacts((Node("node-a", cpus=2.0),))


async def begun(service: Service, directory: Path) -> tuple[str, list[str]]:
    data, told = DemoData(directory / "data", 599, 24, "What?", "That."), list[str]()
    job_id = await begun_job(service, Demo(directory), directory / "base", data, told.append)  # type: ignore[arg-type]
    return job_id, told


@pytest.mark.parametrize(("found", "resumed"), [(JobStatus.PAUSED, ["ftjob-1"]), (JobStatus.RUNNING, [])])
async def test_a_job_that_has_not_ended_goes_on_though_it_was_paused(tmp_path, found, resumed):
    service = Service([status(*TRAINING).model_copy(update={"status": found})])
    job_id, told = await begun(service, tmp_path)

    assert (job_id, service.resumed, service.submitted) == ("ftjob-1", resumed, [])
    assert told == ["going on with job ftjob-1, which has not ended; --model and --steps change nothing in it"]


async def test_a_new_job_is_begun_where_all_have_ended(tmp_path):
    service = Service([status(*TRAINING, h.completed())])
    job_id, told = await begun(service, tmp_path)

    assert (job_id, service.resumed, told) == ("ftjob-new", [], [])
    assert service.submitted == [FineTuningJobConfig(**read_job_file(Demo(tmp_path).job_file))]


async def test_the_job_file_is_there_though_an_earlier_job_goes_on(tmp_path):
    await begun(Service([status(*TRAINING)]), tmp_path)

    assert FineTuningJobConfig(**read_job_file(Demo(tmp_path).job_file)).new_model_id == "docstrings-2"


def test_our_modules_are_found_from_anywhere_and_before_those_of_the_working_directory(tmp_path):
    (tmp_path / "ftactors").mkdir()
    (tmp_path / "ftactors" / "__init__.py").write_text("raise SystemExit('another')")
    command = command_of("ftactors.cli", "--version")

    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)

    assert done.stdout.startswith("ftactors ")
