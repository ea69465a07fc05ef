"""A job by the command line alone, on a cluster that runs: each command is a process that comes and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from ftactors.cli.edge import ExitCode
from tests.service.aftermath import actors_of
from tests.service.conftest import QUICK

pytestmark = pytest.mark.ray

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(ray_session: str, base_model: Path, tmp_path: Path) -> Iterator[Run]:
    """Run a command; at the end the service is stopped, by the command line too."""
    namespace = f"test-{uuid4().hex[:8]}"
    file = tmp_path / "service.yaml"
    where = {"state_dir": str(tmp_path / "state"), "ray_address": ray_session, "namespace": namespace}
    file.write_text(yaml.safe_dump({**QUICK, **where, "base_models": {"tiny": str(base_model)}}))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ftactors.cli", *arguments],
            env={**os.environ, "FTACTORS_CONFIG": str(file)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield command
    assert command("stop").returncode == ExitCode.OK
    assert actors_of(namespace) == []


def test_a_job_is_submitted_followed_and_found_again(run: Run, job: Callable[..., dict[str, Any]], tmp_path: Path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job()))
    before = run("list")
    submitted = run("submit", str(file))
    job_id = submitted.stdout.strip()
    watched = run("watch", job_id)

    assert (before.stdout, before.returncode) == ("", ExitCode.OK)
    assert (submitted.returncode, job_id[:6]) == (ExitCode.OK, "ftjob-"), submitted.stderr
    assert watched.returncode == ExitCode.OK, watched.stderr
    assert watched.stdout.splitlines()[-1].startswith(f"{job_id} completed")

    status = json.loads(run("status", job_id, "--json").stdout)
    models = [line.split("\t")[0] for line in run("models", "list").stdout.splitlines()]
    kinds = [line.split("\t")[2] for line in run("events", job_id).stdout.splitlines()]
    assert models == ["tiny", status["fine_tuned_model_id"]]
    assert (kinds[0], kinds[-1]) == ("job_submitted", "job_completed")
    assert "training: step 40" in run("logs", job_id).stdout

    assert run("stop").stdout == "the service is stopped\n"
    after = run("list")
    assert after.stdout.startswith(f"{job_id}\tcompleted")
    assert "no service is running" in after.stderr


def test_what_cannot_be_accepted_is_told_by_exit_codes(run: Run, job: Callable[..., dict[str, Any]], tmp_path: Path):
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job(fine_tuning_technique__params={"r": 0}, seed=-1)))
    invalid = run("submit", str(file))
    file.write_text(json.dumps(job(base_model_id="no-such-model")))
    unknown = run("submit", str(file))

    assert (invalid.returncode, unknown.returncode) == (ExitCode.INVALID, ExitCode.NOT_FOUND)
    assert "2 problems" in invalid.stderr
    assert "no-such-model" in unknown.stderr
    assert "Traceback" not in invalid.stderr + unknown.stderr
    assert run("list").stdout == ""


def test_what_waits_for_a_job_prints_nothing_but_the_answer(
    run: Run, job: Callable[..., dict[str, Any]], tmp_path: Path
):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job()))
    submit = ("submit", str(file), "--wait", "--idempotency-key", "once")
    as_json = run(*submit, "--json")
    in_a_pipe = run(*submit)

    statuses = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert (as_json.returncode, statuses[-1]["status"]) == (ExitCode.OK, "completed"), as_json.stderr
    assert (in_a_pipe.returncode, in_a_pipe.stdout) == (ExitCode.OK, f"{statuses[0]['job_id']}\n"), in_a_pipe.stderr
    assert f"{statuses[0]['job_id']} completed" in in_a_pipe.stderr
