"""Jobs of a benchmark: a service on a tiny model, and when each thing happened to its jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftactors import JobStatus, LLMFineTuningService, LLMModelManager
from ftactors.core.events import AnyEvent, Recorded
from tests import tiny

ROWS = 8
"""Rows of a step."""


def tiny_model(path: Path) -> Path:
    """Write a model of two layers and 64 dimensions."""
    return tiny.make_model_dir(path)


def small_model(path: Path) -> Path:
    """Write a model whose steps take long enough to be worth measuring: four layers of 128 dimensions."""
    tokenizer = tiny.make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def texts(path: Path, count: int, sentences: int = 1) -> Path:
    """Write rows of plain text, each of some sentences."""
    words = tiny.sentences(count * sentences)
    rows = [" ".join(words[row * sentences : (row + 1) * sentences]) for row in range(count)]
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    return path


def lora(data: Path, steps: int) -> dict[str, Any]:
    """Return a job: LoRA on the service's model `base`, without held-out data."""
    return {
        "job_name": "a benchmark",
        "base_model_id": "base",
        "new_model_id": f"tuned-{uuid4().hex[:8]}",
        "dataset_config": {"source_type": "file_path", "path_or_id": str(data), "overflow": "truncate"},
        "fine_tuning_technique": {"method": "lora"},
        "hyperparameters": {"max_steps": steps, "per_device_train_batch_size": ROWS, "max_seq_length": 256},
        "resources": {"num_gpus": 0},
    }


@asynccontextmanager
async def service(directory: Path, model: Path, **config: Any) -> AsyncIterator[LLMFineTuningService]:
    """Give a service that runs on the Ray that is there."""
    settings = {"state_dir": str(directory / "state"), "namespace": f"benchmark-{uuid4().hex[:8]}", **config}
    running = LLMFineTuningService(LLMModelManager({"base": str(model)}), settings)
    await running.start()
    try:
        yield running
    finally:
        await running.stop(force=True)


async def events_of(running: LLMFineTuningService, job: dict[str, Any]) -> list[Recorded]:
    """Submit a job, wait until it is completed, and return its events."""
    status = await running.submit_fine_tuning_job(job)
    return await completed(running, status.job_id)


async def completed(running: LLMFineTuningService, job_id: str) -> list[Recorded]:
    """Wait until a job is completed, and return its events."""
    ended = await running.wait_for_job(job_id, timeout=600)
    if ended.status is not JobStatus.COMPLETED:
        raise RuntimeError(f"job {job_id} of the benchmark is {ended.status}: {ended.error_message}")
    return await running.list_job_events(job_id)


def time_of(events: list[Recorded], condition: Callable[[Any], bool]) -> float:
    """Return when the last event that fulfils a condition was recorded, in seconds since 1970."""
    return [recorded.at for recorded in events if condition(recorded.event)][-1]


async def until(running: LLMFineTuningService, job_id: str, kind: type[AnyEvent]) -> None:
    """Return once a job has had an event of this kind."""
    while not any(isinstance(recorded.event, kind) for recorded in await running.list_job_events(job_id)):
        await asyncio.sleep(0.1)
