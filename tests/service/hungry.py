"""A trainer that asks torch for more memory than any device has while a micro-batch has more than four rows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from trainers.loop import Loop
from trainers.sft import SftTrainer

TRAINER = "tests.service.hungry:HungryTrainer"
MOST_ROWS = 4
AFTER_STEP = 12
ASKED_BYTES = 2**60


class HungryTrainer(SftTrainer):
    """Trains as the one it is made from, up to a step that large batches do not survive."""

    def _prepare(self, *arguments: Any) -> Loop:
        loop = super()._prepare(*arguments)
        loop.add_callback(_Hunger())
        return loop


class _Hunger(TrainerCallback):
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, model: torch.nn.Module, **__: Any
    ) -> None:
        if state.global_step == AFTER_STEP and args.per_device_train_batch_size > MOST_ROWS:
            torch.empty(ASKED_BYTES, dtype=torch.uint8, device=next(model.parameters()).device)
