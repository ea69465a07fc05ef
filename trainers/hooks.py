"""What happens at each step of the training loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from trainers.evaluation import finite

if TYPE_CHECKING:
    from trainers.loop import Loop


class Hooks(TrainerCallback):
    """What a loop does at each step. It comes after transformers' own callbacks, and has the last word."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._is_begun = False
        self._began_at = 0.0
        self._busy_s = 0.0
        self._seen_tokens = 0
        self._learning_rate = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Say that training begins, and how many steps it has: once, though a resumed run may evaluate before it."""
        ranks = self._loop.conduct.ranks
        if not ranks.is_first:  # a dropout of its own; one that is resumed gets its generators' states after this
            torch.manual_seed(self._loop.args.seed + ranks.rank)
        if self._is_begun:
            return
        self._is_begun = True
        state, conduct = self._loop.state, self._loop.conduct
        conduct.reporter.begin(
            "training", total_steps=state.max_steps, warnings=conduct.resumption.warnings, step=state.global_step
        )

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the step's clock."""
        self._began_at = time.monotonic()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Count what was trained on, and let no gradient that is not finite reach the weights."""
        loop = self._loop
        loop.count_step()
        scaler = loop.accelerator.scaler
        overflowed_in_fp16 = scaler is not None and scaler.get_scale() >= 1  # the scaler skips the step and scales down
        if not math.isfinite(loop.grad_norm) and not overflowed_in_fp16:
            raise loop.diverged("gradient norm", loop.grad_norm, loop.state.global_step + 1)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Keep the step's learning rate, before the scheduler goes on to the next one."""
        self._learning_rate = self._loop._get_learning_rate()  # noqa: SLF001

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Obey an order that wants nothing saved within the step."""
        order = self._loop.conduct.reporter.look()
        if order is not None and not order.save:
            self._loop.obey()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Tell how far training is; checkpoint where that is due by the clock; obey an order to stop."""
        self._busy_s += time.monotonic() - self._began_at
        self._tell()
        self._loop.conduct.tally.owes_evaluation = self._is_evaluation_due()
        if self._loop.conduct.ranks.share(self._is_checkpoint_due):
            self._loop.control.should_save = True
        if self._loop.conduct.reporter.look() is not None:
            self._loop.obey()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Obey an order to stop: nothing is evaluated or saved for the epoch's end."""
        if self._loop.conduct.reporter.look() is not None:
            self._loop.obey()

    def _is_checkpoint_due(self) -> bool:
        """Return whether the last checkpoint is too long ago, by this rank's clock."""
        return time.monotonic() - self._loop.checkpointed_at >= self._loop.conduct.checkpoint_every_s

    def _is_evaluation_due(self) -> bool:
        """Return whether this step is evaluated: now, or at the end of the epoch, which comes after a checkpoint."""
        state, control = self._loop.state, self._loop.control
        ends_epoch = control.should_training_stop or float(state.epoch or 0).is_integer()
        at_end = self._loop.args.eval_strategy == IntervalStrategy.EPOCH and ends_epoch
        return control.should_evaluate or at_end

    def _tell(self) -> None:
        """Take note of how far training is."""
        loop = self._loop
        tokens = loop.seen_tokens - self._seen_tokens
        said = loop.conduct.reporter.progress(
            loop.state.global_step,
            metrics={
                "loss": loop.recent.value,
                "learning_rate": self._learning_rate,
                "grad_norm": finite(loop.grad_norm),
                "epoch": loop.state.epoch,
            },
            tokens_per_second=tokens / self._busy_s if self._busy_s > 0 else None,
        )
        if said:
            loop.recent.take()
            self._busy_s, self._seen_tokens = 0.0, loop.seen_tokens
