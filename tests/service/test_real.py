"""A real model, SmolLM2-135M-Instruct, tuned by a whole job on a question it can get better at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftactors import JobStatus
from ftactors.demo_data import write_demo_data
from ftactors.demo_model import obtain_model

pytestmark = [pytest.mark.real, pytest.mark.ray, pytest.mark.timeout(600)]


async def test_lora_on_smollm2_lowers_the_held_out_loss_and_its_model_answers(
    services: Callable[..., Any], tmp_path: Path
):
    model = obtain_model(tmp_path / "model", None, progress=print)
    data = write_demo_data(tmp_path / "data", held_out_rows=8)
    config = {
        "job_name": "docstrings",
        "base_model_id": "smollm2",
        "new_model_id": "smollm2-docstrings",
        "dataset_config": {
            "source_type": "file_path",
            "path_or_id": str(data.directory),
            "validation_split_name": "validation",
        },
        "fine_tuning_technique": {"method": "lora"},
        "hyperparameters": {
            "max_steps": 8,
            "learning_rate": 2e-3,
            "per_device_train_batch_size": 2,
            "max_seq_length": 160,
            "logging_steps": 1,
            "save_strategy": "no",
        },
        "resources": {"num_gpus": 0, "num_cpus": 2},
    }
    async with services(base_models={"smollm2": str(model)}) as service:
        submitted = await service.submit_fine_tuning_job(config)
        done = await service.wait_for_job(submitted.job_id, timeout=540)

    assert done.status is JobStatus.COMPLETED, done.error_message
    assert done.metrics is not None
    assert done.metrics["base_loss"] == pytest.approx(3.4, abs=0.5)
    assert done.metrics["loss"] < done.metrics["base_loss"] - 0.3

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, done.output_model_path)
    tokenizer = AutoTokenizer.from_pretrained(done.output_model_path)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": data.question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = tuned.generate(**asked, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(answer[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip()
