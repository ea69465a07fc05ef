"""From our configuration to the arguments of TRL, PEFT and bitsandbytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, TaskType
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig

from ftactors.core.config import FineTuningJobConfig, LoRAParams, QLoRAParams, TrainingHyperparameters
from ftactors.core.errors import UnsupportedModelError
from ftactors.core.schedule import eval_steps_of, evaluation_strategy_of

SAME_NAME = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "lr_scheduler_type",
    "logging_steps",
    "save_strategy",
    "save_steps",
)
"""Fields of `TrainingHyperparameters` that `SFTConfig` takes as they are, under the same name."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The types that an attempt computes in."""

    amp_dtype: torch.dtype | None
    """Autocast to this type; None: compute in the weights' type."""
    weights_dtype: torch.dtype
    """The type of the weights in memory: fp32 where they are trained."""
    warnings: tuple[str, ...] = ()


def precision_of(config: FineTuningJobConfig, *, uses_gpu: bool) -> Precision:
    """Return the types to compute in: fp32 on a CPU; on a GPU bf16 where it has that and nothing else was asked.

    Raises:
        UnsupportedModelError: bf16 was asked of a GPU without it, and `on_unsupported` is `error`.
    """
    if not uses_gpu:
        return Precision(amp_dtype=None, weights_dtype=torch.float32)
    asked, has_bf16 = config.hyperparameters, torch.cuda.is_bf16_supported(including_emulation=False)
    warnings: tuple[str, ...] = ()
    amp_dtype: torch.dtype | None = None
    if asked.bf16 and not has_bf16:
        message = f"bf16 was asked for, but {torch.cuda.get_device_name()} does not have it"
        if config.on_unsupported == "error":
            raise UnsupportedModelError(message, hint="set fp16=True, or choose another accelerator_type")
        warnings, amp_dtype = (f"{message}: training in fp16",), torch.float16
    elif asked.fp16:
        amp_dtype = torch.float16
    elif asked.bf16 or (asked.bf16 is None and has_bf16):
        amp_dtype = torch.bfloat16
    trains_weights = config.fine_tuning_technique.method == "full"
    return Precision(amp_dtype, torch.float32 if trains_weights or amp_dtype is None else amp_dtype, warnings)


def sft_config(
    config: FineTuningJobConfig,
    *,
    output_dir: Path,
    precision: Precision,
    uses_gpu: bool,
    evaluates: bool,
    ddp_backend: str | None = None,
) -> SFTConfig:
    """Return TRL's configuration of a job's training loop.

    `load_best_model_at_end`, `metric_for_best_model`, `early_stopping_*`, `save_total_limit` and
    `checkpoint_every_minutes` have no part in it: transformers would tie them to each other, delete checkpoints that
    the log still names, and compare losses that depend on the batch size. `Loop` does their work.

    Args:
        config: The job, resolved.
        output_dir: Where checkpoints are staged.
        precision: The types to compute in.
        uses_gpu: Whether the attempt holds a GPU; without one, CUDA is not touched.
        evaluates: Whether there are held-out rows.
        ddp_backend: What ranks exchange gradients with; None of one alone.
    """
    asked = config.hyperparameters
    checkpointing = uses_gpu if asked.gradient_checkpointing is None else asked.gradient_checkpointing
    return SFTConfig(
        **{name: getattr(asked, name) for name in SAME_NAME},
        output_dir=str(output_dir),
        max_steps=asked.max_steps or -1,
        warmup_steps=_warmup(asked),
        eval_strategy=evaluation_strategy_of(config) if evaluates else "no",
        eval_steps=eval_steps_of(config),
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not uses_gpu,
        ddp_backend=ddp_backend,
        ddp_find_unused_parameters=True,  # a step may leave experts out; checkpointing without reentry bears it
        average_tokens_across_devices=True,  # each token of a step counts as much, whichever rank has it
        bf16=precision.amp_dtype == torch.bfloat16,
        fp16=precision.amp_dtype == torch.float16,
        activation_checkpointing=checkpointing,
        dataloader_pin_memory=uses_gpu,
        max_length=None,  # rows were cut, dropped or split when they were encoded
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_nan_inf_filter=False,  # would hide that a loss is not finite
        disable_tqdm=True,
        report_to="none",
    )


def lora_config(params: LoRAParams, model: PreTrainedModel) -> LoraConfig:
    """Return PEFT's configuration of an adapter for a model.

    Raises:
        UnsupportedModelError: DoRA on a base in 8 bits, which PEFT does not have.
    """
    if isinstance(params, QLoRAParams) and params.bits == 8 and params.use_dora:  # noqa: PLR2004 - bits
        raise UnsupportedModelError("DoRA does not work on a base in 8 bits", hint="set bits=4 or use_dora=False")
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=params.r,
        lora_alpha=params.lora_alpha,  # type: ignore[arg-type]  # PEFT divides it by r: any number will do
        lora_dropout=params.lora_dropout,
        target_modules=params.target_modules,
        bias=params.bias,
        use_rslora=params.use_rslora,
        use_dora=params.use_dora,
        modules_to_save=params.modules_to_save,
        fan_in_fan_out=_transposes(model),
    )


def quantization_config(params: QLoRAParams, compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return how bitsandbytes is to quantize a base."""
    if params.bits == 8:  # noqa: PLR2004 - bits
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=params.quant_type,
        bnb_4bit_use_double_quant=params.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def _transposes(model: PreTrainedModel) -> bool:
    """Return whether a model keeps its weights transposed, as gpt2's `Conv1D` does, where they are not quantized."""
    return any(getattr(module, "source_cls", type(module)) is Conv1D for module in model.modules())


def _warmup(asked: TrainingHyperparameters) -> float:
    """Return `warmup_steps` as transformers takes it: below 1 a share of all steps, from 1 on a number of them."""
    if asked.warmup_steps:
        return asked.warmup_steps
    return min(asked.warmup_ratio, math.nextafter(1.0, 0.0))  # 1.0 would be a single step
