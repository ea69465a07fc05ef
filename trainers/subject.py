"""The model that a job trains: its base, loaded and quantized as asked, and the adapter to be trained on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ftactors.core.config import FineTuningJobConfig, LoRAParams, QLoRAParams
from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef
from trainers.arguments import Precision, lora_config, quantization_config
from trainers.loading import Base, base_of, load_adapter, load_model, saved_dtype
from trainers.ranks import ALONE, Ranks
from trainers.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Subject:
    """A base model in memory, and what it said of itself before training touched it."""

    ref: ModelRef
    """The model that the trained weights belong on."""
    base: Base
    """The full model that it is, once its adapters are merged."""
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    generation_config: GenerationConfig | None

    @property
    def saved_dtype(self) -> torch.dtype:
        """The type that the base is saved in."""
        return saved_dtype(self.config)


def load_subject(
    config: FineTuningJobConfig,
    ref: ModelRef,
    precision: Precision,
    *,
    device: torch.device,
    merged: Path,
    ranks: Ranks = ALONE,
) -> Subject:
    """Return a job's base model, as it is measured before training.

    Args:
        config: The job.
        ref: Its base model.
        precision: The types to compute in.
        device: Where the model goes.
        merged: Where a base that is an adapter is written, merged into its own base.
        ranks: All who load it; the first alone merges.
    """
    params = config.fine_tuning_technique.params
    quantization = quantization_config(params, precision.weights_dtype) if isinstance(params, QLoRAParams) else None
    below = _trained_on(config, ref)
    base = ranks.share(lambda: base_of(below, merged))
    model = load_model(base, dtype=precision.weights_dtype, device=device, quantization=quantization)
    kept = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    continued = model if below is ref else load_adapter(model, ref, is_trainable=True)
    return Subject(below, base, continued, load_tokenizer(ref), *kept)


def with_adapter(config: FineTuningJobConfig, subject: Subject) -> PreTrainedModel | PeftModel:
    """Return the model to train: all weights of it, the adapter that it has, or a new one.

    Raises:
        UnsupportedModelError: the adapter would be on the output layer.
    """
    params = config.fine_tuning_technique.params
    if not isinstance(params, LoRAParams) or isinstance(subject.model, PeftModel):
        return subject.model
    head = {name for name, module in subject.model.named_modules() if module is subject.model.get_output_embeddings()}
    if head & set(params.target_modules if isinstance(params.target_modules, list) else ()):
        raise UnsupportedModelError(
            f"target_modules {params.target_modules} name the output layer, on which TRL trains no adapter",
            hint="leave it out, or train it as a whole: modules_to_save",
        )
    set_seed(config.seed)  # the adapter's weights are drawn at random
    model = get_peft_model(subject.model, lora_config(params, subject.model))
    if not isinstance(model, PeftModel):
        raise TypeError(f"PEFT made a {type(model).__name__} of an adapter without mixed types")
    return model


def _trained_on(config: FineTuningJobConfig, ref: ModelRef) -> ModelRef:
    """Return the model that the trained weights belong on: the base, or the one below it where it is continued."""
    continues = (
        config.continue_adapter
        and ref.kind == "adapter"
        and isinstance(config.fine_tuning_technique.params, LoRAParams)
    )
    return ref.base if continues and ref.base is not None else ref
