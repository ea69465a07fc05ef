"""A tuned model on disk: complete, without pickles, and proven to load."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftactors.core.errors import JobExecutionError
from ftactors.core.events import PublishedModel, RegistrarRef
from trainers.durable import commit
from trainers.loading import Base, load_model, release, restore
from trainers.subject import Subject


class PublishError(JobExecutionError):
    """The tuned model that was written does not load."""

    error_type = "publish_failed"


def publish(subject: Subject, model: PreTrainedModel | PeftModel, final: Path) -> str:
    """Write a tuned model to the directory `final`, which appears complete or not at all, and return its digest.

    The model in memory is of no use afterwards: its weights are given back before those on disk are tried.

    Raises:
        PublishError: what was written does not load.
    """
    staged = final.with_name(f"{final.name}.partial")
    staged.mkdir()
    base = subject.base
    if isinstance(model, PeftModel) and base.is_merged:  # it is nowhere else: it goes with the adapter
        shutil.move(base.path, staged / "base")
        base = replace(base, path=str(staged / "base"))
        _save_adapter(model, staged, base, named=replace(base, path=str(final / "base")))
    elif isinstance(model, PeftModel):
        _save_adapter(model, staged, base, named=base)
    else:
        _save_full(model, staged, subject)
        if base.is_merged:
            shutil.rmtree(base.path)
    if subject.generation_config is not None:
        subject.generation_config.save_pretrained(staged)
    subject.tokenizer.save_pretrained(staged)
    release(model)
    _check(staged, base if isinstance(model, PeftModel) else None)
    return commit(staged, final)


def register(registrar: RegistrarRef, job_id: str, model: PublishedModel) -> None:
    """Tell a model manager of the user's own about the model. It may be told again, with the same job's id."""
    module, _, name = registrar.path.partition(":")
    manager: Any = attrgetter(name)(import_module(module))(**registrar.arguments)
    manager.register(job_id, model)


def _save_full(model: PreTrainedModel, staged: Path, subject: Subject) -> None:
    """Write a full model in its base's types and with its base's configuration, for training turns the cache off."""
    restore(model)
    model.config = subject.config
    if subject.generation_config is not None:
        model.generation_config = subject.generation_config
    model.save_pretrained(staged)


def _save_adapter(model: PeftModel, staged: Path, base: Base, named: Base) -> None:
    """Write an adapter that names its base, so that PEFT alone can load both."""
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path = base.path  # PEFT looks there whether the vocabulary has grown
    model.save_pretrained(str(staged))
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path, adapter.revision = named.path, named.revision
        adapter.inference_mode = True
        adapter.save_pretrained(str(staged))
    (staged / "README.md").unlink(missing_ok=True)  # PEFT's form, with nothing filled in


@torch.no_grad()
def _check(directory: Path, base: Base | None) -> None:
    """Load a model with plain transformers, an adapter with plain PEFT on its base, and let it predict a token.

    Raises:
        PublishError: it does not load, lacks weights, or predicts nothing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = _loaded_full(directory) if base is None else _loaded_adapter(directory, base)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise PublishError(f"the tuned model in {directory} does not load: {error}") from error
    token = tokenizer.eos_token_id or 0
    if not model(input_ids=torch.tensor([[token, token]])).logits.isfinite().all():
        raise PublishError(f"the tuned model in {directory} predicts values that are not finite")


def _loaded_full(directory: Path) -> PreTrainedModel:
    loading: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    model, info = loading
    if wrong := {name: sorted(map(str, keys)) for name, keys in info.items() if keys}:
        raise PublishError(f"the tuned model in {directory} does not fit its own configuration: {wrong}")
    loaded: PreTrainedModel = model
    return loaded


def _loaded_adapter(directory: Path, base: Base) -> PeftModel:
    on = load_model(base, dtype=None, device=torch.device("cpu"))
    model: PeftModel = PeftModel.from_pretrained(on, directory)
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path = base.path
    saved, loaded = load_file(directory / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    strange = saved.keys() ^ loaded.keys()
    for name in saved.keys() & loaded.keys():
        if not torch.equal(saved[name].to(loaded[name].dtype), loaded[name]):  # whole modules get the base's type
            strange.add(name)
    if strange:
        raise PublishError(f"the adapter in {directory} does not fit its base in {base.path}: {sorted(strange)}")
    return model
