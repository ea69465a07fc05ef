"""Whole jobs through the real service on Ray, to a model that loads and has learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftactors import InvalidJobConfigError, JobStatus, LLMFineTuningService, LoRAParams, ModelNotFoundError
from tests import tiny

pytestmark = pytest.mark.ray


def held_out_loss(model: PreTrainedModel, tokenizer_dir: Path) -> float:
    """Return the loss per token of the completions, computed apart from all of our code."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    total, count = 0.0, 0
    for record in tiny.records(24, seed=1):
        user = [{"role": "user", "content": record["prompt"]}]
        whole = [*user, {"role": "assistant", "content": record["completion"]}]
        prompt = tokenizer.apply_chat_template(user, add_generation_prompt=True, tokenize=False)
        text = tokenizer.apply_chat_template(whole, tokenize=False)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(text.removeprefix(prompt).rstrip("\n"), add_special_tokens=False)["input_ids"]
        ids = torch.tensor([prompt_ids + answer])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1]
        total += torch.nn.functional.cross_entropy(logits, ids[0, len(prompt_ids) :], reduction="sum").item()
        count += len(answer)
    return total / count


@pytest.mark.parametrize(("method", "most"), [("full", 1.5), ("lora", 1.5), ("qlora", 1.8)])
async def test_a_job_goes_from_queued_to_a_model_that_loads_and_has_learned(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]], base_model: Path, method: str, most: float
):
    submitted = await service.submit_fine_tuning_job(job(method))
    assert submitted.status is JobStatus.QUEUED

    seen = [status.status async for status in service.watch_job(submitted.job_id)]
    done = await service.get_job_status(submitted.job_id)
    assert done is not None
    assert done.status is JobStatus.COMPLETED, done.error_message
    assert {JobStatus.PREPROCESSING, JobStatus.RUNNING, JobStatus.COMPLETED} <= set(seen)
    assert (done.progress_percentage, done.current_step, done.total_steps) == (100.0, 40, 40)

    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    before = held_out_loss(base, base_model)
    output = Path(done.output_model_path or "")
    tuned = (
        AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
        if method == "full"
        else PeftModel.from_pretrained(base, output)
    )
    after = held_out_loss(tuned, output)

    assert before > 2.0
    assert after < most
    assert done.metrics is not None
    tolerance = 0.15 if method == "qlora" else 1e-3  # qlora is measured on the quantized base
    assert done.metrics["loss"] == pytest.approx(after, abs=tolerance)
    assert done.metrics["base_loss"] == pytest.approx(before, abs=tolerance)

    model = await service.model_manager.get_model(done.new_model_id)
    assert (model.path, model.job_id, model.kind) == (
        str(output),
        done.job_id,
        "full" if method == "full" else "adapter",
    )


async def test_a_tuned_model_is_the_base_of_the_next_job(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    first = await service.submit_fine_tuning_job(job("lora"))
    done = await service.wait_for_job(first.job_id, timeout=120)
    next_one = job("lora", base_model_id=done.new_model_id, hyperparameters__max_steps=5)
    second = await service.submit_fine_tuning_job(next_one)
    after = await service.wait_for_job(second.job_id, timeout=120)

    assert after.status is JobStatus.COMPLETED, after.error_message
    assert done.metrics is not None
    assert after.metrics is not None
    assert after.metrics["base_loss"] == pytest.approx(done.metrics["loss"], abs=0.02)


async def test_submit_takes_a_file_a_mapping_or_a_config(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]], tmp_path: Path
):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job()))

    status = await service.submit_fine_tuning_job(path)

    assert await service.cancel_fine_tuning_job(status.job_id)
    assert (await service.wait_for_job(status.job_id, timeout=60)).status is JobStatus.CANCELLED


async def test_a_job_that_is_cancelled_at_once_leaves_nothing_behind(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    for _ in range(5):
        submitted = await service.submit_fine_tuning_job(job())
        assert await service.cancel_fine_tuning_job(submitted.job_id)
        assert not await service.cancel_fine_tuning_job("ftjob-unknown")

    # the fixture stops the service and then looks for actors that are left


async def test_all_problems_are_told_at_once_and_nothing_is_queued(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    broken = job(
        fine_tuning_technique={"method": "lora", "params": LoRAParams(target_modules=["q_proj", "nowhere"])},
        hyperparameters__max_seq_length=100_000,
        hyperparameters__fp16=True,
        hyperparameters__bf16=True,
        resources__num_gpus=3,
        surprise=1,
    )

    with pytest.raises(InvalidJobConfigError) as caught:
        await service.submit_fine_tuning_job(broken)

    fields = {problem.field for problem in caught.value.problems}
    assert {
        "fine_tuning_technique.params.target_modules",
        "hyperparameters.max_seq_length",
        "resources.num_gpus",
        "surprise",
    } <= {field.split("[")[0].removesuffix(".1") for field in fields}
    assert any("fp16" in field or "bf16" in field for field in fields)
    assert await service.list_fine_tuning_jobs() == []


async def test_an_unknown_base_model_is_not_found_and_close_ones_are_named(
    service: LLMFineTuningService, job: Callable[..., dict[str, Any]]
):
    with pytest.raises(ModelNotFoundError, match="tiny"):
        await service.submit_fine_tuning_job(job(base_model_id="tiyn"))
    assert await service.list_fine_tuning_jobs() == []


async def test_a_preview_counts_and_queues_nothing(service: LLMFineTuningService, job: Callable[..., dict[str, Any]]):
    seen = await service.preview_job(
        job("lora", hyperparameters__max_steps=None, hyperparameters__num_train_epochs=2.0)
    )

    assert (seen.counts["train_rows"], seen.counts["validation_rows"], seen.total_steps) == (96, 24, 24)
    assert await service.list_fine_tuning_jobs() == []


async def test_the_same_key_is_the_same_job(service: LLMFineTuningService, job: Callable[..., dict[str, Any]]):
    config = job()

    first = await service.submit_fine_tuning_job(config, idempotency_key="once")
    second = await service.submit_fine_tuning_job(config, idempotency_key="once")

    assert first.job_id == second.job_id
    assert await service.cancel_fine_tuning_job(first.job_id)
    await service.wait_for_job(first.job_id, timeout=60)
    await service.model_manager.delete_model("tiny")
    third = await service.submit_fine_tuning_job(config, idempotency_key="once")
    assert (third.job_id, third.status) == (first.job_id, JobStatus.CANCELLED)
    with pytest.raises(ModelNotFoundError):
        await service.submit_fine_tuning_job(config, idempotency_key="twice")
