"""Adapters as base models: merged first, or trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef
from ftactors.core.work import Published, StageBegun, Work
from tests import tiny
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


def _warnings(work: Work) -> tuple[str, ...]:
    session = ListSession()
    SftTrainer(work, session).run()
    return session.of(StageBegun, stage="loading")[0].warnings


def test_parameters_that_an_adapter_that_is_continued_does_not_have_are_warned_of(
    first: ModelRef, data: Path, tmp_path: Path
):
    params = {"r": 16, "use_dora": True, "target_modules": "all-linear"}
    work = work_of(tmp_path, first, data, max_steps=1, params=params, job={"continue_adapter": True})

    assert _warnings(work) == (
        "r=16 has no effect: the adapter first is continued with its own r=4",
        "use_dora=True has no effect: the adapter first is continued with its own use_dora=False",
    )


def test_parameters_that_an_adapter_that_is_continued_has_are_not_warned_of(
    first: ModelRef, data: Path, tmp_path: Path
):
    modules = ["v_proj", "q_proj", "k_proj", "o_proj", "down_proj", "gate_proj", "up_proj"]
    params = {"r": 4, "target_modules": modules}

    assert _warnings(work_of(tmp_path, first, data, max_steps=1, params=params, job={"continue_adapter": True})) == ()


def test_continuing_what_is_no_adapter_is_warned_of(llama: Path, data: Path, tmp_path: Path):
    work = work_of(tmp_path, llama, data, max_steps=1, job={"continue_adapter": True})

    assert _warnings(work) == (
        "continue_adapter has no effect: the base model base is no adapter, a new one is trained",
    )


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


def test_modules_that_an_adapter_saves_whole_are_merged_in_the_type_of_the_base(data: Path, tmp_path: Path):
    base = tiny.make_model_dir(tmp_path / "base", dtype=torch.bfloat16)
    published = _publish(tmp_path, base, data, params={"modules_to_save": ["lm_head"]})

    merged = base_of(_ref(published, "first"), tmp_path / "merged")

    weights = load_file(Path(merged.path) / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_an_adapter_of_the_hub_is_taken_at_its_revision_and_with_its_own_tokenizer_if_it_has_one(
    has_tokenizer: bool,  # noqa: FBT001 - a case
    first: ModelRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--adapter/snapshots" / commit
    shutil.copytree(first.path, snapshot)
    (snapshot / "chat_template.jinja").write_text("of the adapter")
    known_missing = snapshot.parents[1] / ".no_exist" / commit
    known_missing.mkdir(parents=True)
    (known_missing / "config.json").touch()
    if not has_tokenizer:
        for file in snapshot.glob("tokenizer*"):
            file.unlink()
    of_hub = first.model_copy(update={"path": "someone/adapter", "source": "hub", "revision": commit})

    merged = base_of(of_hub, tmp_path / "merged")

    expected = base_of(first, tmp_path / "expected")
    assert torch.equal(*(_logits(AutoModelForCausalLM.from_pretrained(base.path)) for base in (merged, expected)))
    assert (AutoTokenizer.from_pretrained(merged.path).chat_template == "of the adapter") == has_tokenizer


def test_an_adapter_whose_base_is_not_known_is_refused(first: ModelRef, tmp_path: Path):
    with pytest.raises(UnsupportedModelError, match="is an adapter, but its base model is not known"):
        base_of(first.model_copy(update={"base": None}), tmp_path / "merged")
