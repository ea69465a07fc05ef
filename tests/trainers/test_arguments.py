"""From our configuration to TRL's and PEFT's, name by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from ftactors.core.config import LoRAParams, QLoRAParams, TrainingHyperparameters
from ftactors.core.errors import UnsupportedModelError
from tests.trainers.attempts import work_of
from trainers.arguments import SAME_NAME, lora_config, precision_of, quantization_config, sft_config

DONE_BY_US = {
    "output_dir_base": "the job's directory",
    "max_seq_length": "encoding",
    "fp16": "on a CPU nothing but fp32",
    "bf16": "on a CPU nothing but fp32",
    "load_best_model_at_end": "Loop.load_best",
    "metric_for_best_model": "Criterion",
    "early_stopping_patience": "Criterion",
    "early_stopping_threshold": "Criterion",
    "save_total_limit": "Checkpoints",
    "checkpoint_every_minutes": "Hooks.on_step_end",
}
RENAMED: list[tuple[str, Any, str, Any]] = [
    ("max_steps", 7, "max_steps", 7),
    ("warmup_ratio", 0.25, "warmup_steps", 0.25),
    ("warmup_steps", 5, "warmup_steps", 5),
    ("evaluation_strategy", "steps", "eval_strategy", "steps"),
    ("eval_steps", 5, "eval_steps", 5),
    ("gradient_checkpointing", True, "activation_checkpointing", True),
]
OTHER_VALUES: dict[str, Any] = {
    "num_train_epochs": 2.5,
    "learning_rate": 3e-4,
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 5,
    "gradient_accumulation_steps": 6,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 0.5,
    "optim": "adafactor",
    "lr_scheduler_type": "cosine",
    "logging_steps": 4,
    "save_strategy": "epoch",
    "save_steps": 9,
}


def _sft(tmp_path: Path, *, evaluates: bool = True, **hyperparameters: Any) -> SFTConfig:
    config = work_of(tmp_path, tmp_path, tmp_path, **hyperparameters).config
    precision = precision_of(config, uses_gpu=False)
    return sft_config(config, output_dir=tmp_path, precision=precision, uses_gpu=False, evaluates=evaluates)


def test_every_hyperparameter_reaches_trl_or_is_done_by_us():
    renamed = {ours for ours, *_ in RENAMED}

    assert set(TrainingHyperparameters.model_fields) == {*SAME_NAME, *renamed, *DONE_BY_US}


@pytest.mark.parametrize("name", SAME_NAME)
def test_a_hyperparameter_of_the_same_name_has_the_same_value(name: str, tmp_path: Path):
    assert getattr(_sft(tmp_path, **{name: OTHER_VALUES[name]}), name) == OTHER_VALUES[name]


@pytest.mark.parametrize(("ours", "value", "theirs", "expected"), RENAMED)
def test_a_hyperparameter_has_the_name_that_trl_has_today(
    ours: str, value: Any, theirs: str, expected: Any, tmp_path: Path
):
    assert getattr(_sft(tmp_path, **{ours: value}), theirs) == expected


def test_a_warmup_over_all_steps_is_no_warmup_of_one_step(tmp_path: Path):
    assert _sft(tmp_path, warmup_ratio=1.0).get_warmup_steps(40) == 40


def test_what_transformers_would_do_behind_our_back_is_off(tmp_path: Path):
    args = _sft(tmp_path, load_best_model_at_end=True, save_total_limit=1)

    assert (args.save_total_limit, args.load_best_model_at_end, args.metric_for_best_model) == (None, False, None)
    assert (args.report_to, args.logging_nan_inf_filter, args.packing, args.max_length) == ([], False, False, None)


def test_without_held_out_rows_nothing_is_evaluated(tmp_path: Path):
    assert _sft(tmp_path, evaluates=False, evaluation_strategy="steps").eval_strategy == "no"


def test_a_cpu_trains_in_fp32_whatever_was_asked(tmp_path: Path):
    args = _sft(tmp_path, fp16=True)

    assert (args.use_cpu, args.fp16, args.bf16, args.dataloader_pin_memory) == (True, False, False, False)
    assert args.activation_checkpointing is False


def test_lora_parameters_keep_their_names(llama: Path):
    params = LoRAParams(
        r=4,
        lora_alpha=32,
        lora_dropout=0.25,
        target_modules=["q_proj"],
        bias="lora_only",
        use_rslora=True,
        use_dora=True,
        modules_to_save=["embed_tokens"],
    )

    config = lora_config(params, AutoModelForCausalLM.from_pretrained(llama))

    assert {name: getattr(config, name) for name in type(params).model_fields} == {
        **params.model_dump(),
        "target_modules": {"q_proj"},
    }
    assert (config.fan_in_fan_out, config.task_type) == (False, "CAUSAL_LM")


def test_gpt2_keeps_its_weights_transposed(gpt2: Path):
    assert lora_config(LoRAParams(), AutoModelForCausalLM.from_pretrained(gpt2)).fan_in_fan_out is True


def test_dora_on_a_base_in_8_bits_is_refused(llama: Path):
    with pytest.raises(UnsupportedModelError, match="DoRA does not work on a base in 8 bits"):
        lora_config(QLoRAParams(bits=8, use_dora=True), AutoModelForCausalLM.from_pretrained(llama))


def test_quantization_is_as_asked():
    four = quantization_config(QLoRAParams(quant_type="fp4", double_quant=False), torch.bfloat16)
    eight = quantization_config(QLoRAParams(bits=8), torch.float32)

    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "fp4", False)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
