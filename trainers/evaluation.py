# ruff: noqa: N806 - shapes stand in the names of tensors: batch B, time T, vocabulary V, tokens that count N
"""How well a model predicts held-out rows, per token.

`Trainer.evaluate` takes the mean over batches: its loss depends on the batch size. Here sums over tokens are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ftactors.core.config import Metric
from ftactors.core.errors import DatasetError
from ftactors.core.events import Metrics
from trainers.ranks import ALONE, Ranks
from trainers.rows import NOT_TRAINED

Row = Mapping[str, Any]
Collate = Callable[[list[Row]], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model achieves on held-out rows."""

    loss: float
    """Cross entropy in nats per token."""
    token_accuracy: float
    """The share of tokens that the model finds most likely."""
    tokens: int

    @property
    def perplexity(self) -> float:
        """`exp(loss)`, infinite where that overflows."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    def value(self, metric: Metric) -> float:
        """Return one metric, as it is."""
        return float(getattr(self, metric))

    def metrics(self, names: Iterable[Metric]) -> Metrics:
        """Return the named metrics; one that is not finite is None."""
        return {name: finite(self.value(name)) for name in names}


def finite(value: float) -> float | None:
    """Return the value, or None where it is not finite: JSON has no word for it."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class HeldOut:
    """Rows that nothing is trained on, and how they are put before a model."""

    rows: Sequence[Row]
    """With `input_ids`, and `labels` that are `NOT_TRAINED` where nothing is to be predicted."""
    collate: Collate
    batch_size: int
    amp_dtype: torch.dtype | None = None
    """Autocast to this type, as training does; None: compute in the weights' type."""
    ranks: Ranks = ALONE
    """Those who share the batches, all of which must measure at the same time."""

    @property
    def batches(self) -> int:
        """How many batches a measurement takes, over all ranks."""
        return -(-len(self.rows) // self.batch_size)

    @torch.no_grad()
    def measure(self, model: torch.nn.Module, on_batch: Callable[[int], None] = lambda _: None) -> Evaluation:
        """Return what the model achieves on all rows: in all ranks the same.

        Long rows come first, so that a batch that does not fit the memory fails at once, and little is padded.

        Args:
            model: A causal language model, with or without an adapter. It is left in evaluation mode.
            on_batch: Told how many batches are done, after each round of the ranks; what it raises ends the
                measurement.

        Raises:
            DatasetError: the rows have no token to predict.
        """
        model.eval()
        device = next(model.parameters()).device
        order = sorted(range(len(self.rows)), key=lambda row: -len(self.rows[row]["input_ids"]))
        loss, correct, tokens = 0.0, 0.0, 0.0
        for first in range(0, self.batches, self.ranks.size):
            batch = first + self.ranks.rank
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            if chosen:
                inputs = {
                    name: value.to(device) for name, value in self.collate([self.rows[row] for row in chosen]).items()
                }
                batch_loss, batch_correct, batch_tokens = self._sums(model, inputs)
                loss, correct, tokens = loss + batch_loss, correct + batch_correct, tokens + batch_tokens
            on_batch(min(first + self.ranks.size, self.batches))
        loss, correct, tokens = self.ranks.sum([loss, correct, tokens])
        if tokens == 0:
            raise DatasetError(f"the {len(self.rows)} held-out rows have no token to predict")
        return Evaluation(loss=loss / tokens, token_accuracy=correct / tokens, tokens=int(tokens))

    def _sums(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[float, int, int]:
        """Return a batch's summed loss, its right guesses and its tokens."""
        targets_BT = inputs.pop("labels")[:, 1:]
        device_type = targets_BT.device.type
        with torch.autocast(device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            logits_BTV = model(**inputs, use_cache=False).logits[:, :-1]
        counted_BT = targets_BT != NOT_TRAINED
        logits_NV, targets_N = logits_BTV[counted_BT].float(), targets_BT[counted_BT]
        loss = cross_entropy(logits_NV, targets_N, reduction="sum")
        correct = (logits_NV.argmax(-1) == targets_N).sum()
        return loss.item(), int(correct.item()), targets_N.numel()
