"""`full`, `lora` and `qlora` from prepared data to a published model that loads and has learned."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftactors.core.errors import DatasetLostError, DeviceError, DivergedError, UnsupportedModelError
from ftactors.core.events import PublishedModel
from ftactors.core.work import CheckpointWritten, Evaluated, Progress, Published, StageBegun, Work
from ftactors.models.manager import LLMModelManager
from tests import tiny
from tests.trainers.attempts import ListSession, learned, prepare, work_of
from trainers.durable import digest_of
from trainers.evaluation import HeldOut
from trainers.loading import cast, restore
from trainers.sft import SftTrainer

LEARNED = 1.2  # nats per token below the base's 2.7; what is left at 1.05 is which animal does what to which
TWO_EPOCHS = {"num_train_epochs": 2, "evaluation_strategy": "epoch", "save_strategy": "epoch"}


def _publish(work: Work) -> tuple[Published, ListSession]:
    session = ListSession()
    published = SftTrainer(work, session).run()
    assert isinstance(published, Published)
    return published, session


def _loss(model: Any, data: Path, split: str = "validation") -> float:
    rows = load_from_disk(str(data))[split]
    return HeldOut(rows, DataCollatorForLanguageModeling(pad_token_id=0), batch_size=30).measure(model).loss


@pytest.fixture(scope="module")
def lora(llama: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, ListSession]:
    """A job of two epochs of 12 steps, evaluated and saved after each."""
    return _publish(work_of(tmp_path_factory.mktemp("lora"), llama, data, method="lora", **TWO_EPOCHS))


def test_lora_publishes_an_adapter_that_loads_with_peft_and_has_learned(
    lora: tuple[Published, ListSession], llama: Path, data: Path
):
    published, _ = lora
    base = AutoModelForCausalLM.from_pretrained(llama)
    before = _loss(base, data)

    tuned = _loss(PeftModel.from_pretrained(base, published.path), data)

    assert published.kind == "adapter"
    assert tuned < before - LEARNED
    assert (tuned, before) == pytest.approx((published.metrics["loss"], published.metrics["base_loss"]), abs=1e-4)


def test_an_adapter_names_its_base_so_that_peft_finds_both(lora: tuple[Published, ListSession], data: Path):
    published, _ = lora

    model = AutoPeftModelForCausalLM.from_pretrained(published.path)

    assert _loss(model, data) == pytest.approx(published.metrics["loss"], abs=1e-4)


def test_full_publishes_a_model_that_loads_with_transformers_and_has_learned(llama: Path, data: Path, tmp_path: Path):
    published, _ = _publish(work_of(tmp_path, llama, data, method="full", **TWO_EPOCHS))

    model = AutoModelForCausalLM.from_pretrained(published.path)

    assert published.kind == "full"
    assert _loss(model, data) == pytest.approx(published.metrics["loss"], abs=1e-4)
    assert published.metrics["loss"] < published.metrics["base_loss"] - LEARNED


@pytest.mark.parametrize("params", [{}, {"quant_type": "fp4", "double_quant": False, "use_dora": True}, {"bits": 8}])
def test_qlora_trains_on_a_quantized_base_and_publishes_an_adapter_for_the_unquantized_one(
    params: dict[str, Any], llama: Path, data: Path, tmp_path: Path
):
    trainer = SftTrainer(work_of(tmp_path, llama, data, method="qlora", params=params, **TWO_EPOCHS), ListSession())
    published = trainer.run()
    base = AutoModelForCausalLM.from_pretrained(llama)

    before, tuned = _loss(base, data), _loss(PeftModel.from_pretrained(base, published.path), data)

    assert {type(module).__name__ for module in trainer._loop.tuned.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert published.metrics["base_loss"] != pytest.approx(before, abs=1e-6)  # it was quantized
    assert tuned < before - LEARNED


@pytest.mark.parametrize(("method", "params"), [("lora", {"use_dora": True}), ("qlora", {}), ("full", {})])
def test_gpt2_learns_too(method: str, params: dict[str, Any], gpt2: Path, data: Path, tmp_path: Path):
    published, _ = _publish(work_of(tmp_path, gpt2, data, method=method, params=params, **TWO_EPOCHS))

    assert published.metrics["loss"] < published.metrics["base_loss"] - LEARNED


def test_a_job_tells_its_stages_evaluations_and_last_progress_in_their_order(lora: tuple[Published, ListSession]):
    _, session = lora

    told = [
        word.stage if isinstance(word, StageBegun) else f"{type(word).__name__} {word.step}" for word in session.words
    ]

    assert [stage for stage in told if " " not in stage] == [
        "loading",
        "baseline",
        "training",
        "evaluating",
        "publishing",
    ]
    assert [(word.of, word.stage, word.step) for word in session.of(Evaluated)] == [
        ("base", "baseline", 0),
        ("tuned", "training", 12),
        ("tuned", "training", 24),
        ("tuned", "evaluating", 24),
    ]
    assert [word.step for word in session.of(CheckpointWritten)] == [12, 24]
    assert session.of(StageBegun, stage="training")[0].total_steps == 24
    last = session.of(Progress, stage="training")[-1]
    assert last.step == 24
    assert set(last.metrics) == {"loss", "learning_rate", "grad_norm", "epoch"}
    assert last.tokens_per_second > 0


def test_metrics_say_what_was_gained_and_are_finite(lora: tuple[Published, ListSession]):
    metrics = lora[0].metrics

    told = {"train_loss", "loss", "perplexity", "base_loss", "base_perplexity", "delta_loss", "peak_mem_gib"}
    assert set(metrics) == told
    assert all(value is not None and math.isfinite(value) for value in metrics.values())
    assert metrics["delta_loss"] == pytest.approx(metrics["loss"] - metrics["base_loss"])
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))


def test_all_tokens_with_a_label_are_counted_as_trained_on(lora: tuple[Published, ListSession], data: Path):
    rows = load_from_disk(str(data))["train"]

    assert lora[0].trained_tokens == 2 * sum(label != -100 for row in rows for label in row["labels"])


def test_each_logged_step_is_a_line_of_metrics(lora: tuple[Published, ListSession]):
    file = Path(lora[0].path).parent / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]

    logged = [line for line in lines if "loss" in line]

    assert [line["step"] for line in logged] == list(range(1, 25))
    assert set(logged[0]) == {"step", "epoch", "loss", "learning_rate", "grad_norm", "trained_tokens"}
    assert logged[0]["learning_rate"] == pytest.approx(1e-2)
    assert [set(line) for line in lines if "eval_loss" in line] == 2 * [{"step", "eval_loss", "eval_perplexity"}]


def test_a_published_model_holds_no_pickle_and_has_the_digest_that_was_told(lora: tuple[Published, ListSession]):
    path = Path(lora[0].path)

    assert {file.name for file in path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert digest_of(path) == lora[0].digest
    assert AutoTokenizer.from_pretrained(path).chat_template == tiny.CHAT_TEMPLATE


def test_a_full_model_has_its_base_s_type_and_configuration_and_is_measured_so(data: Path, tmp_path: Path):
    base = tiny.make_model_dir(tmp_path / "base", dtype=torch.bfloat16)
    published, _ = _publish(work_of(tmp_path, base, data, method="full", max_steps=4))

    before, after = (AutoModelForCausalLM.from_pretrained(path).config for path in (base, published.path))
    tuned = AutoModelForCausalLM.from_pretrained(published.path)

    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (Path(published.path) / name).read_bytes() == (base / name).read_bytes()
    assert tuned.dtype == torch.bfloat16
    assert after.to_diff_dict() == before.to_diff_dict()
    assert _loss(tuned.float(), data) == pytest.approx(published.metrics["loss"], abs=1e-4)


def test_weights_that_were_loaded_in_fp32_beside_bf16_ones_go_back_to_it(tmp_path: Path):
    base = tiny.make_model_dir(tmp_path / "base", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.model.norm.float()  # as transformers keeps what a model needs in fp32
    before = {name: parameter.dtype for name, parameter in model.named_parameters()}

    cast(model, torch.float32)
    during = {parameter.dtype for parameter in model.parameters()}
    restore(model)

    assert during == {torch.float32}
    assert {name: parameter.dtype for name, parameter in model.named_parameters()} == before
    assert set(before.values()) == {torch.float32, torch.bfloat16}


def test_an_adapter_on_a_bf16_base_is_fp32(data: Path, tmp_path: Path):
    base = tiny.make_model_dir(tmp_path / "base", dtype=torch.bfloat16)
    published, _ = _publish(work_of(tmp_path, base, data, method="lora", max_steps=2))

    model = AutoPeftModelForCausalLM.from_pretrained(published.path)

    assert {parameter.dtype for name, parameter in model.named_parameters() if "lora_" in name} == {torch.float32}


def test_without_held_out_rows_there_is_neither_a_baseline_nor_an_evaluation(
    llama: Path, data_without_held_out: Path, tmp_path: Path
):
    published, session = _publish(work_of(tmp_path, llama, data_without_held_out, max_steps=2))

    assert [word.stage for word in session.of(StageBegun)] == ["loading", "training", "publishing"]
    assert set(published.metrics) == {"train_loss", "peak_mem_gib"}


def test_the_metrics_asked_for_are_those_told(llama: Path, data: Path, tmp_path: Path):
    evaluation = {"metrics": ["token_accuracy"], "evaluate_base": False}

    published, session = _publish(work_of(tmp_path, llama, data, evaluation=evaluation, max_steps=2))

    assert set(published.metrics) == {"train_loss", "token_accuracy", "peak_mem_gib"}
    assert [set(word.metrics) for word in session.of(Evaluated)] == [{"token_accuracy"}]


def test_a_baseline_that_is_known_is_not_measured_again(llama: Path, data: Path, tmp_path: Path):
    known = {"baseline": {"loss": 9.0, "perplexity": None}}

    published, session = _publish(work_of(tmp_path, llama, data, work=known, max_steps=2))

    assert session.of(Evaluated, of="base") == []
    assert published.metrics["base_loss"] == 9.0
    assert published.metrics["delta_loss"] == pytest.approx(published.metrics["loss"] - 9.0)


def test_a_loss_that_is_not_finite_ends_the_job_and_names_the_step(llama: Path, data: Path, tmp_path: Path):
    work = work_of(
        tmp_path, llama, data, method="full", optim="sgd", learning_rate=1e30, save_strategy="steps", save_steps=1
    )

    with pytest.raises(DivergedError, match=r"the (loss|gradient norm) at step 2 is nan \(learning rate") as caught:
        SftTrainer(work, ListSession()).run()

    assert "the last good checkpoint is that of step 1" in caught.value.message
    assert "lower the learning rate" in caught.value.hint


def test_prepared_data_that_is_gone_is_told_as_such(llama: Path, tmp_path: Path):
    with pytest.raises(DatasetLostError, match="nowhere"):
        SftTrainer(work_of(tmp_path, llama, tmp_path / "nowhere"), ListSession()).run()


def test_a_base_that_transformers_cannot_load_is_told_as_such(llama: Path, data: Path, tmp_path: Path):
    broken = tiny.make_model_dir(tmp_path / "broken")
    (broken / "model.safetensors").unlink()

    with pytest.raises(UnsupportedModelError, match=r"the base model broken in .* cannot be loaded"):
        SftTrainer(work_of(tmp_path, broken, data), ListSession()).run()


def test_an_adapter_on_the_output_layer_is_refused(llama: Path, data: Path, tmp_path: Path):
    work = work_of(tmp_path, llama, data, params={"target_modules": ["q_proj", "lm_head"]}, max_steps=1)

    with pytest.raises(UnsupportedModelError, match="name the output layer"):
        SftTrainer(work, ListSession()).run()


def test_overrides_of_a_retry_replace_hyperparameters(llama: Path, data: Path, tmp_path: Path):
    retry = {"overrides": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}}

    halved, _ = _publish(work_of(tmp_path / "halved", llama, data, work=retry, max_steps=3))
    whole, _ = _publish(work_of(tmp_path / "whole", llama, data, max_steps=3))

    assert learned(halved) == pytest.approx(learned(whole), abs=1e-4)
    assert halved.trained_tokens == whole.trained_tokens


class KeepsInAFile(LLMModelManager):
    """A model manager of a user's own: it keeps what it is told in a file."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.arguments = {"file": file}

    def register(self, job_id: str, model: PublishedModel) -> None:
        is_complete = (Path(model.path) / "tokenizer.json").exists()
        Path(str(self.arguments["file"])).write_text(json.dumps([job_id, model.model_dump(mode="json"), is_complete]))


def test_a_model_manager_of_the_user_s_own_is_told_of_the_complete_model(llama: Path, data: Path, tmp_path: Path):
    registrar = KeepsInAFile(str(tmp_path / "told.json")).registrar()

    published, _ = _publish(work_of(tmp_path, llama, data, work={"registrar": registrar}, max_steps=2))

    job_id, told, was_complete = json.loads((tmp_path / "told.json").read_text())
    assert (job_id, was_complete) == ("job", True)
    assert PublishedModel(**told) == PublishedModel(
        id="tuned", path=published.path, digest=published.digest, kind="adapter", base=published.base
    )


def test_a_model_tuned_on_conversations_says_how_to_talk_to_it(data: Path, tmp_path: Path):
    base = tiny.make_model_dir(tmp_path / "base", chat_template=False)
    work = work_of(tmp_path, base, data, max_steps=1)
    conversations = work.model_copy(update={"dataset": work.dataset.model_copy(update={"shape": "messages"})})

    published, _ = _publish(conversations)

    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(published.path)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == "User: Who?\nAssistant:"


def test_the_first_training_loss_is_the_base_s_over_the_tokens_with_a_label(llama: Path, tmp_path: Path):
    prepared = prepare(tmp_path / "data", llama, rows=16)
    work = work_of(tmp_path, llama, prepared, max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=4)

    published, _ = _publish(work)

    base = AutoModelForCausalLM.from_pretrained(llama)
    assert published.metrics["train_loss"] == pytest.approx(_loss(base, prepared, "train"), abs=1e-5)


def test_a_gpu_that_torch_does_not_see_is_an_error_that_says_what_to_install(llama, data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = work_of(tmp_path, llama, data, work={"uses_gpu": True})

    with pytest.raises(DeviceError, match=r"torch .* sees none on this node") as caught:
        SftTrainer(asked, ListSession())

    assert "CUDA build" in str(caught.value.hint)
