"""Loss, perplexity and accuracy per token, whatever the batch size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ftactors.core.config import QLoRAParams
from ftactors.core.errors import DatasetError
from trainers.arguments import quantization_config
from trainers.evaluation import Evaluation, HeldOut
from trainers.loading import Base, load_model


def _held_out(rows: Any, batch_size: int) -> HeldOut:
    return HeldOut(rows=rows, collate=DataCollatorForLanguageModeling(pad_token_id=0), batch_size=batch_size)


@torch.no_grad()
def _one_by_one(model: Any, rows: Any) -> tuple[float, float]:
    """Return loss and accuracy, computed row by row and token by token."""
    losses, right = [], []
    for row in rows:
        predicted = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for place, label in enumerate(row["labels"]):
            if label != -100:
                losses.append(-predicted[place - 1, label].item())
                right.append(predicted[place - 1].argmax().item() == label)
    return sum(losses) / len(losses), sum(right) / len(right)


def _uneven(data: Path) -> list[dict[str, list[int]]]:
    """Return rows of different lengths, with different numbers of tokens to predict."""
    rows = list(load_from_disk(str(data))["validation"])
    return [
        {
            "input_ids": row["input_ids"] * (1 + number % 3),
            "labels": (row["labels"] * (1 + number % 3))[: -(number % 5) or None] + [-100] * (number % 5),
        }
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("batch_size", [1, 8, 30])
def test_the_loss_is_that_of_each_token_at_any_batch_size(batch_size: int, llama: Path, data: Path):
    model, rows = AutoModelForCausalLM.from_pretrained(llama), _uneven(data)

    evaluation = _held_out(rows, batch_size).measure(model)

    loss, accuracy = _one_by_one(model, rows)
    assert evaluation.loss == pytest.approx(loss, abs=1e-4)
    assert evaluation.perplexity == pytest.approx(math.exp(loss), abs=1e-3)
    assert evaluation.token_accuracy == pytest.approx(accuracy)
    assert evaluation.tokens == sum(label != -100 for row in rows for label in row["labels"])


def test_measuring_tells_of_each_batch_and_leaves_the_random_state_alone(llama: Path, data: Path):
    model, rows = AutoModelForCausalLM.from_pretrained(llama), load_from_disk(str(data))["validation"]
    batches: list[int] = []
    before = torch.get_rng_state()

    _held_out(rows, 8).measure(model, batches.append)

    assert batches == [1, 2, 3, 4]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_base_in_4_bits_still_passes_gradients_on_after_it_was_measured(llama: Path, data: Path):
    quantization = quantization_config(QLoRAParams(), torch.float32)
    cpu = torch.device("cpu")
    model = load_model(Base("tiny", str(llama)), dtype=torch.float32, device=cpu, quantization=quantization)
    inputs = torch.randn(2, 3, 64, requires_grad=True)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(layer(inputs).square().sum(), inputs)[0]

    before = gradient()
    _held_out(load_from_disk(str(data))["validation"], 8).measure(model)
    model.train()

    assert torch.equal(gradient(), before)


def test_what_is_not_finite_has_no_value_in_metrics():
    evaluation = Evaluation(loss=1e6, token_accuracy=0.5, tokens=3)

    assert evaluation.metrics(["loss", "perplexity"]) == {"loss": 1e6, "perplexity": None}


def test_rows_without_a_token_to_predict_are_an_error(llama: Path):
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}]

    with pytest.raises(DatasetError, match="1 held-out rows have no token to predict"):
        _held_out(rows, 1).measure(AutoModelForCausalLM.from_pretrained(llama))
