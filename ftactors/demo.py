"""The demo: a real model, real data that is on every machine, and one LoRA job through the service."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from ftactors.core.config import (
    DatasetSourceConfig,
    FineTuningJobConfig,
    FineTuningTechniqueConfig,
    LoRAParams,
    ResourceConfig,
    TrainingHyperparameters,
)
from ftactors.core.errors import JobExecutionError
from ftactors.core.service_config import ServiceConfig
from ftactors.core.status import FineTuningJobStatusInfo, JobStatus
from ftactors.demo_data import DemoData, write_demo_data
from ftactors.demo_model import obtain_model
from ftactors.models import LLMModelManager
from ftactors.models.own_process import command_of, environment
from ftactors.service import LLMFineTuningService

Watch = Callable[[AsyncIterator[FineTuningJobStatusInfo]], Awaitable[FineTuningJobStatusInfo]]
"""Shows statuses as they come, and returns the last."""
Tell = Callable[[str], None]

_ANSWER_TOKENS = 64
_EARLIER_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo shall do."""

    directory: Path
    """Where it keeps its model, data, jobs and log."""
    model: str | None = None
    """A directory or a hub id; None: SmolLM2-135M-Instruct."""
    steps: int = 20

    @property
    def service_file(self) -> Path:
        """The configuration by which the command line finds the demo's jobs."""
        return self.directory / "service.yaml"

    @property
    def job_file(self) -> Path:
        """The job, to be changed and submitted again."""
        return self.directory / "job.yaml"


@dataclass(frozen=True, slots=True)
class Answers:
    """A held-out question, its docstring, and what both models say."""

    question: str
    docstring: str
    base: str
    tuned: str


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How the demo ended."""

    status: FineTuningJobStatusInfo
    data: DemoData
    answers: Answers | None
    """None where the job has not completed."""
    took_s: float
    """Without obtaining the model."""


def demo_job(
    model: Path, data: Path, new_model_id: str, *, steps: int = 20, num_cpus: float = 1
) -> FineTuningJobConfig:
    """Return the demo's job."""
    return FineTuningJobConfig(
        job_name="what the standard library does",
        base_model_id=str(model),
        new_model_id=new_model_id,
        dataset_config=DatasetSourceConfig(
            source_type="file_path",
            path_or_id=str(data),
            validation_split_name="validation",
            prompt_column="prompt",
            completion_column="completion",
        ),
        fine_tuning_technique=FineTuningTechniqueConfig(method="lora", params=LoRAParams(r=8, lora_alpha=16)),
        hyperparameters=TrainingHyperparameters(
            max_steps=steps,
            learning_rate=1e-3,
            per_device_train_batch_size=4,
            max_seq_length=160,
            logging_steps=1,
            save_strategy="no",  # it is over before a checkpoint is worth its while; a stop writes one all the same
            evaluation_strategy="no",  # base and tuned model are measured anyway
        ),
        resources=ResourceConfig(num_cpus=num_cpus),
    )


async def run_demo(demo: Demo, *, watch: Watch, tell: Tell) -> DemoResult:
    """Run the demo to its end, or go on with a run that was interrupted, and return what came of it.

    Raises:
        ModelNotFoundError: there is no network to get a model from; says what to give instead.
        FtactorsError: whatever the service raises.
    """
    directory = demo.directory
    model = await asyncio.to_thread(obtain_model, directory / "base", demo.model, tell)
    began_at = time.monotonic()
    data = await asyncio.to_thread(write_demo_data, directory / "data")
    tell(f"data: {data.train_rows} docstrings of the standard library to learn, {data.held_out_rows} held out")
    config = ServiceConfig(state_dir=str(directory / "state"), ray_address="local")
    demo.service_file.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)), encoding="utf-8")
    tell("starting Ray and the service")
    service = LLMFineTuningService(LLMModelManager(), config)
    await service.start()
    try:
        job_id = await begun_job(service, demo, model, data, tell)
        status = await watch(service.watch_job(job_id))
    except asyncio.CancelledError:
        tell("interrupted: the job writes a checkpoint, and the next `ftactors demo` goes on from it")
        raise
    finally:
        await service.stop()
    answers = None
    if status.status is JobStatus.COMPLETED:
        tell("asking both models a held-out question")
        answers = await _ask_both(status, data)
    return DemoResult(status, data, answers, took_s=time.monotonic() - began_at)


async def begun_job(service: LLMFineTuningService, demo: Demo, model: Path, data: DemoData, tell: Tell) -> str:
    """Return the job's id: of one that an earlier run left unfinished, else of a new one.

    The job file is written in either case, as the next new job would be.
    """
    earlier = await service.list_fine_tuning_jobs(limit=_EARLIER_RUNS)
    cluster = await service.cluster()
    name = f"docstrings-{len(earlier) + 1}"
    config = demo_job(model, data.directory, name, steps=demo.steps, num_cpus=max(1.0, cluster.most_cpus))
    asked = config.model_dump(mode="json", exclude_unset=True)
    demo.job_file.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
    for job in earlier:
        if not job.is_terminal:
            tell(f"going on with job {job.job_id}, which has not ended; --model and --steps change nothing in it")
            if job.status is JobStatus.PAUSED:
                await service.resume_fine_tuning_job(job.job_id)
            return job.job_id
    return (await service.submit_fine_tuning_job(config)).job_id


async def _ask_both(status: FineTuningJobStatusInfo, data: DemoData) -> Answers:
    base, tuned = status.base_model_id, status.output_model_path
    return Answers(
        data.question,
        data.answer,
        base=await _answer({"model": base, "prompts": [data.question]}),
        tuned=await _answer({"model": tuned, "kind": "adapter", "base": base, "prompts": [data.question]}),
    )


async def _answer(ask: dict[str, object]) -> str:
    """Return what a model says, in a process of its own: this one never loads torch.

    Raises:
        JobExecutionError: it cannot answer.
    """
    command, pipe = command_of("trainers.generate"), asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment())
    said, complained = await child.communicate(json.dumps({**ask, "max_new_tokens": _ANSWER_TOKENS}).encode())
    if child.returncode != 0:
        last = (complained.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise JobExecutionError(f"the model in {ask['model']} cannot answer: {last}")
    answer: str = json.loads(said)["answers"][0]
    return answer
