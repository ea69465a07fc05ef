"""What goes well with jobs and what goes wrong, acted out on a real service: `python examples/scenarios.py [NAME...]`.

The base model is a tiny one that is made on the spot, so that all of it takes about two minutes on two cores. Each
scenario is a function that can be read alone: it gets a service that has started, and a directory to write to.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from ftactors import (
    DatasetSourceConfig,
    FineTuningJobConfig,
    FineTuningJobStatusInfo,
    FineTuningTechniqueConfig,
    InvalidJobConfigError,
    JobStatus,
    LLMFineTuningService,
    LLMModelManager,
    ModelNotFoundError,
    ResourceConfig,
    TrainingHyperparameters,
)

Scenario = Callable[[LLMFineTuningService, Path], Awaitable[None]]
ANIMALS = ("fox", "owl", "bear", "frog", "goat", "wolf", "crow", "mouse")
ROWS_FOR_A_WHILE = 100_000
"""Whose preparation takes long enough to be interrupted."""


async def scenario_valid_job(service: LLMFineTuningService, workdir: Path) -> None:
    """A valid job goes from queued through preprocessing and running to completed, and its model has learned."""
    submitted = await service.submit_fine_tuning_job(a_job(workdir, "valid job"))
    tell(submitted)
    assert submitted.status is JobStatus.QUEUED

    seen = []
    async for status in service.watch_job(submitted.job_id):
        seen.append(status.status)
    tell(status)
    assert {JobStatus.PREPROCESSING, JobStatus.RUNNING} <= set(seen)
    assert status.status is JobStatus.COMPLETED
    assert status.metrics is not None
    assert float(status.metrics["loss"] or 0) < float(status.metrics["base_loss"] or 0)
    assert (Path(str(status.output_model_path)) / "model.safetensors").exists()
    assert (await service.model_manager.get_model(status.new_model_id)).job_id == status.job_id


async def scenario_unknown_base_model(service: LLMFineTuningService, workdir: Path) -> None:
    """A base model that is nowhere is refused at submit, and nothing is queued."""
    before = await service.list_fine_tuning_jobs()
    job = a_job(workdir, "unknown base").model_copy(update={"base_model_id": "no-such-model"})
    try:
        await service.submit_fine_tuning_job(job)
    except ModelNotFoundError as error:
        print(f"  refused: {error}")
    else:
        raise AssertionError("the job was accepted")
    assert await service.list_fine_tuning_jobs() == before


async def scenario_invalid_configuration(service: LLMFineTuningService, workdir: Path) -> None:
    """An invalid configuration is refused at submit with all that is wrong with it, and nothing is queued."""
    before = await service.list_fine_tuning_jobs()
    job = a_job(workdir, "invalid").model_dump(mode="json", exclude_unset=True)
    job["fine_tuning_technique"] = {"method": "lora", "params": {"r": 0, "lora_dropuot": 0.1}}
    job["hyperparameters"]["learning_rate"] = -1
    job["new_model_id"] = "../elsewhere"
    try:
        await service.submit_fine_tuning_job(job)
    except InvalidJobConfigError as error:
        print(f"  refused: {error}")
        fields = {problem.field for problem in error.problems}
    else:
        raise AssertionError("the job was accepted")
    assert fields == {
        "new_model_id",
        "hyperparameters.learning_rate",
        "fine_tuning_technique.params.r",
        "fine_tuning_technique.params.lora_dropuot",
    }
    assert await service.list_fine_tuning_jobs() == before


async def scenario_cancel_while_queued(service: LLMFineTuningService, workdir: Path) -> None:
    """A job that waits for its turn is cancelled at once."""
    ahead = await service.submit_fine_tuning_job(a_job(workdir, "goes ahead", max_steps=5000))
    await until(service, ahead.job_id, lambda status: status.status == "running")
    submitted = await service.submit_fine_tuning_job(a_job(workdir, "cancel queued"))
    waiting = await until(service, submitted.job_id, lambda status: status.dataset and status.status == "queued")
    print(f"  waits: {waiting.wait_reason}")

    assert await service.cancel_fine_tuning_job(submitted.job_id)
    cancelled = await service.get_job_status(submitted.job_id)
    assert cancelled is not None
    tell(cancelled)
    assert cancelled.status is JobStatus.CANCELLED
    assert not await service.cancel_fine_tuning_job(submitted.job_id), "it has ended"
    assert await service.cancel_fine_tuning_job(ahead.job_id)
    await service.wait_for_job(ahead.job_id)


async def scenario_cancel_while_preparing(service: LLMFineTuningService, workdir: Path) -> None:
    """A job whose data is being prepared is cancelled, and never trains."""
    submitted = await service.submit_fine_tuning_job(a_job(workdir, "cancel preparing", rows=ROWS_FOR_A_WHILE))
    await until(service, submitted.job_id, lambda status: status.stage == "preparing")

    assert await service.cancel_fine_tuning_job(submitted.job_id)
    cancelled = await service.wait_for_job(submitted.job_id)
    tell(cancelled)
    assert (cancelled.status, cancelled.training_started_at) == (JobStatus.CANCELLED, None)


async def scenario_cancel_while_training(service: LLMFineTuningService, workdir: Path) -> None:
    """A job that trains is cancelled at its next step, and publishes no model."""
    submitted = await service.submit_fine_tuning_job(a_job(workdir, "cancel training", max_steps=100_000))
    training = await until(service, submitted.job_id, lambda status: bool(status.current_step))
    tell(training)

    assert await service.cancel_fine_tuning_job(submitted.job_id)
    cancelled = await service.wait_for_job(submitted.job_id)
    tell(cancelled)
    assert (cancelled.status, cancelled.fine_tuned_model_id) == (JobStatus.CANCELLED, None)


async def scenario_failure_while_preparing(service: LLMFineTuningService, workdir: Path) -> None:
    """A job whose data is broken fails before it holds a device, and its message names file and line."""
    job = a_job(workdir, "broken data")
    data = Path(job.dataset_config.path_or_id) / "train.jsonl"
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:6], '{"prompt": "what does the', *lines[7:]]))
    failed = await the_end_of(service, job)
    assert (failed.status, failed.error_type, failed.training_started_at) == (JobStatus.FAILED, "invalid_data", None)
    assert "train.jsonl:7" in str(failed.error_message)


async def scenario_failure_while_training(service: LLMFineTuningService, workdir: Path) -> None:
    """A training that diverges fails instead of publishing a broken model, and says what to change."""
    failed = await the_end_of(service, a_job(workdir, "diverges", learning_rate=1e30))
    assert (failed.status, failed.error_type, failed.fine_tuned_model_id) == (JobStatus.FAILED, "diverged", None)
    assert "learning rate" in str(failed.error_hint)


async def scenario_listing(service: LLMFineTuningService, workdir: Path) -> None:
    """Jobs are listed newest first, page by page, and by status."""
    names = ["first", "second", "third"]
    ids = {}
    for name in names:
        ids[name] = (await service.submit_fine_tuning_job(a_job(workdir, name, max_steps=5000))).job_id
    await service.cancel_fine_tuning_job(ids["second"])
    await service.wait_for_job(ids["second"])

    everything = await service.list_fine_tuning_jobs(limit=3)
    assert [job.job_name for job in everything] == ["third", "second", "first"]
    page = await service.list_fine_tuning_jobs(limit=1, offset=1)
    assert [job.job_id for job in page] == [ids["second"]]
    cancelled = await service.list_fine_tuning_jobs(status_filter="cancelled", limit=1)
    assert [job.job_id for job in cancelled] == [ids["second"]]
    for listed in everything:
        tell(listed)
    for name in ("first", "third"):
        await service.cancel_fine_tuning_job(ids[name])
        await service.wait_for_job(ids[name])


SCENARIOS: dict[str, Scenario] = {
    name.removeprefix("scenario_"): act for name, act in globals().items() if name.startswith("scenario_")
}


def a_job(
    workdir: Path, name: str, *, rows: int = 64, max_steps: int = 40, learning_rate: float = 3e-3
) -> FineTuningJobConfig:
    """Return a valid job that takes seconds, with data of its own in `workdir`."""
    data = workdir / f"data-{uuid4().hex[:8]}"
    write_facts(data, rows)
    return FineTuningJobConfig(
        job_name=name,
        base_model_id=str(a_tiny_model(workdir / "tiny-model")),
        new_model_id=f"tuned-{uuid4().hex[:8]}",
        dataset_config=DatasetSourceConfig(
            source_type="file_path",
            path_or_id=str(data),
            validation_split_name="validation",
            prompt_column="prompt",
            completion_column="completion",
        ),
        fine_tuning_technique=FineTuningTechniqueConfig(method="full"),
        hyperparameters=TrainingHyperparameters(
            output_dir_base=str(workdir / "runs"),
            max_steps=max_steps,
            learning_rate=learning_rate,
            per_device_train_batch_size=8,
            evaluation_strategy="no",
            max_seq_length=64,
        ),
        resources=ResourceConfig(num_gpus=0),
    )


def write_facts(directory: Path, rows: int) -> None:
    """Write `train.jsonl` and `validation.jsonl`: who sees whom, by a rule that can be learned."""
    directory.mkdir(parents=True)
    facts = [
        {"prompt": f"what does the {animal} see ?", "completion": f"the {animal} sees the {ANIMALS[place - 1]} ."}
        for place, animal in enumerate(ANIMALS)
    ]
    for name, count in (("train", rows), ("validation", len(facts))):
        lines = (json.dumps(facts[row % len(facts)]) for row in range(count))
        (directory / f"{name}.jsonl").write_text("\n".join(lines))


def a_tiny_model(directory: Path) -> Path:
    """Return a directory with a Llama of two layers and a tokenizer by words; it is made at the first call."""
    if (directory / "config.json").exists():
        return directory
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    words = ["<unk>", "<s>", "</s>", "what", "does", "the", "see", "sees", "?", ".", *ANIMALS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


async def until(
    service: LLMFineTuningService, job_id: str, is_so: Callable[[FineTuningJobStatusInfo], Any]
) -> FineTuningJobStatusInfo:
    """Return the first status of a job for which something is so; fails where the job ends before."""
    async for status in service.watch_job(job_id):
        if is_so(status):
            return status
    raise AssertionError(f"the job ended first: {status}")


async def the_end_of(service: LLMFineTuningService, job: FineTuningJobConfig) -> FineTuningJobStatusInfo:
    """Submit a job, and return its last status."""
    submitted = await service.submit_fine_tuning_job(job)
    ended = await service.wait_for_job(submitted.job_id)
    tell(ended)
    return ended


def tell(status: FineTuningJobStatusInfo) -> None:
    """Print a status on a line."""
    step = f", step {status.current_step} of {status.total_steps}" if status.total_steps else ""
    error = f": {status.error_message}" if status.error_message else ""
    hint = f" ({status.error_hint})" if status.error_hint else ""
    print(f"  {status.job_id} {status.job_name!r} is {status.status}{step}{error}{hint}")


async def main(names: list[str]) -> None:
    """Act out the scenarios of these names, or all of them."""
    with tempfile.TemporaryDirectory(prefix="scenarios-") as directory:
        config = {"state_dir": f"{directory}/state", "ray_address": "local", "job_queue_poll_interval_seconds": 0.5}
        service = LLMFineTuningService(LLMModelManager(), config)
        await service.start()
        try:
            for name in names or SCENARIOS:
                print(f"{name}: {SCENARIOS[name].__doc__}")
                await SCENARIOS[name](service, Path(directory))
        finally:
            await service.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
