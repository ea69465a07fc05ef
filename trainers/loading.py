"""From a reference to a base model to a model in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef
from trainers.tokenizer import load_tokenizer

_LOADED_DTYPE = "loaded_dtype"
"""A parameter's attribute, which it keeps within any other module: the type before `cast` first saw it."""


@dataclass(frozen=True, slots=True)
class Base:
    """The full model that is trained, or that an adapter is trained on."""

    model_id: str
    path: str
    """A local directory or a hub id."""
    revision: str | None = None
    is_merged: bool = False
    """Whether it was made of adapters by this attempt."""


def base_of(ref: ModelRef, merged: Path) -> Base:
    """Return the full model that a reference means: an adapter is merged into its base, and written to `merged`.

    The merge is done on unquantized weights in fp32, and saved in the type of the base: merged into quantized weights,
    an adapter loses what quantization rounds away.
    """
    if ref.kind == "full":
        return _named(ref)
    model = _merged(ref)
    restore(model)
    model.save_pretrained(merged)
    load_tokenizer(ref).save_pretrained(merged)
    return Base(model_id=ref.model_id, path=str(merged), is_merged=True)


def load_model(
    base: Base,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """Return a base model on a device, quantized or not. `config.dtype` is the type that it was saved in.

    With `dtype` None that is the type of the weights too.

    Raises:
        UnsupportedModelError: transformers cannot load it.
    """
    options: dict[str, Any] = {"dtype": "auto"}
    if quantization is not None:  # quantized weights cannot be moved: they are made where they stay
        options = {"dtype": dtype, "quantization_config": quantization, "device_map": {"": device}}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            base.path, revision=base.revision or "main", **options
        )
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"the base model {base.model_id} in {base.path} cannot be loaded: {error}",
            hint="it must be a causal language model that transformers.AutoModelForCausalLM loads",
        ) from error
    if quantization is None:
        cast(model, dtype or model.dtype)
        model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    else:
        _stay_trainable(model)
    return model


def load_adapter(model: PreTrainedModel, ref: ModelRef, *, is_trainable: bool = False) -> PeftModel:
    """Return a model with an adapter on it: one of the hub at its revision, which nothing else has."""
    options: dict[str, Any] = {} if ref.revision is None else {"revision": ref.revision}
    adapted: PeftModel = PeftModel.from_pretrained(model, ref.path, is_trainable=is_trainable, **options)
    return adapted


def saved_dtype(config: PretrainedConfig) -> torch.dtype:
    """Return the type that a loaded model's weights were saved in."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def cast(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> None:
    """Turn a model's weights to another type, in place; `restore` undoes it.

    Buffers, and weights that are not in the model's own type, stay: they are kept in fp32 for a reason.
    """
    own: torch.dtype = model.dtype
    for parameter in model.parameters():
        if not hasattr(parameter, _LOADED_DTYPE):
            setattr(parameter, _LOADED_DTYPE, parameter.dtype)
        if parameter.dtype == own:
            parameter.data = parameter.data.to(dtype)


def restore(model: PreTrainedModel | PeftModel) -> None:
    """Turn a model's weights back to the types that each of them was loaded in, in place.

    Those that took the place of others, as an adapter's `modules_to_save` do, get the type of the model.
    """
    own = saved_dtype(model.config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(parameter, _LOADED_DTYPE, own))


def release(model: torch.nn.Module) -> None:
    """Give back the memory of a model's weights, whoever still holds it."""
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)


def _named(ref: ModelRef) -> Base:
    return Base(model_id=ref.model_id, path=ref.path, revision=ref.revision)


def _stay_trainable(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from packing 4-bit weights for inference when a model is measured on a CPU with AVX512-BF16.

    Packed weights stay packed, and compute without autograd: training after it would go on with wrong gradients.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - torch's stub knows no such attribute


def _merged(ref: ModelRef) -> PreTrainedModel:
    """Return a model in fp32, with all its adapters merged; `config.dtype` is the type of the model below them."""
    if ref.kind == "full":
        return load_model(_named(ref), dtype=torch.float32, device=torch.device("cpu"))
    if ref.base is None:
        raise UnsupportedModelError(f"{ref.model_id} in {ref.path} is an adapter, but its base model is not known")
    merged: PreTrainedModel = load_adapter(_merged(ref.base), ref).merge_and_unload()
    return merged
