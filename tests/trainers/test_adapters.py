"""Adapters as base models: merged first, or trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef
from ftactors.core.work import Published
from tests.trainers.attempts import ListSession, base_ref, work_of
from trainers.loading import base_of
from trainers.sft import SftTrainer

PROBE = torch.arange(6, 60)[None]


def _publish(directory: Path, base: Path | ModelRef, data: Path, **arguments: Any) -> Published:
    published = SftTrainer(work_of(directory, base, data, max_steps=6, **arguments), ListSession()).run()
    assert isinstance(published, Published)
    return published


def _ref(published: Published, model_id: str) -> ModelRef:
    """Return a tuned model as the base of the next job."""
    base = published.base if published.kind == "adapter" else None
    return ModelRef(model_id=model_id, path=published.path, source="registered", kind=published.kind, base=base)


@torch.no_grad()
def _logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    return model.eval()(input_ids=PROBE).logits


@pytest.fixture(scope="module")
def first(llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return _ref(_publish(tmp_path_factory.mktemp("first"), llama, data, params={"r": 4}), "first")


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_new_adapter_on_an_adapter_goes_with_the_merged_base_and_loads_with_peft(
    method: str, first: ModelRef, llama: Path, data: Path, tmp_path: Path
):
    published = _publish(tmp_path, first, data, method=method)

    model = AutoPeftModelForCausalLM.from_pretrained(published.path)

    chain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), first.path).merge_and_unload()
    both = PeftModel.from_pretrained(chain, published.path)
    assert published.base == first
    assert published.metrics["loss"] < published.metrics["base_loss"]
    torch.testing.assert_close(_logits(model), _logits(both), atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "attempts/1/base").exists()


def test_full_training_of_an_adapter_publishes_one_whole_model(first: ModelRef, data: Path, tmp_path: Path):
    published = _publish(tmp_path, first, data, method="full", learning_rate=1e-3)

    AutoModelForCausalLM.from_pretrained(published.path)

    assert (published.kind, published.base) == ("full", first)
    assert not (Path(published.path) / "base").exists()
    assert not (tmp_path / "attempts/1/base").exists()


def test_an_adapter_that_is_continued_stays_one_adapter_on_the_same_base(
    first: ModelRef, llama: Path, data: Path, tmp_path: Path
):
    published = _publish(tmp_path, first, data, job={"continue_adapter": True})

    model = AutoPeftModelForCausalLM.from_pretrained(published.path)

    assert published.base == base_ref(llama)
    assert model.peft_config["default"].r == 4
    assert published.metrics["loss"] < published.metrics["base_loss"]


def test_the_base_of_a_job_that_continues_an_adapter_is_measured_with_it(first: ModelRef, data: Path, tmp_path: Path):
    continued = _publish(tmp_path / "continued", first, data, job={"continue_adapter": True})
    merged = _publish(tmp_path / "merged", first, data)

    assert continued.metrics["base_loss"] == pytest.approx(merged.metrics["base_loss"], abs=1e-4)


def test_a_chain_of_adapters_is_merged_from_its_root(first: ModelRef, data: Path, tmp_path: Path):
    second = _publish(tmp_path / "second", first, data)

    merged = base_of(_ref(second, "second"), tmp_path / "merged")

    assert merged.is_merged
    torch.testing.assert_close(
        _logits(AutoModelForCausalLM.from_pretrained(merged.path)),
        _logits(AutoPeftModelForCausalLM.from_pretrained(second.path)),
        atol=1e-4,
        rtol=1e-4,
    )


def test_an_adapter_whose_base_is_not_known_is_refused(first: ModelRef, tmp_path: Path):
    with pytest.raises(UnsupportedModelError, match="is an adapter, but its base model is not known"):
        base_of(first.model_copy(update={"base": None}), tmp_path / "merged")
