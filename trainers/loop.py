"""TRL's training loop, with our evaluation, our checkpoints and our reports."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from ftactors.core.config import Metric
from ftactors.core.errors import DivergedError
from ftactors.core.session import Stop
from ftactors.core.work import CheckpointWritten, Evaluated
from trainers.checkpoints import Checkpoints, Resumption
from trainers.dealing import NOTHING, DealtBatches
from trainers.evaluation import Evaluation, HeldOut, finite
from trainers.hooks import Hooks
from trainers.ranks import ALONE, Ranks
from trainers.reporting import Reporter
from trainers.rows import NOT_TRAINED
from trainers.tally import Criterion, Mean, Tally


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a loop behaves beyond what transformers knows."""

    reporter: Reporter
    checkpoints: Checkpoints
    tally: Tally
    held_out: HeldOut | None
    metrics: tuple[Metric, ...]
    """What is told of an evaluation."""
    criterion: Criterion
    keeps_best: bool
    """Checkpoint every best model, never prune it, and end with it."""
    checkpoint_every_s: float
    resumption: Resumption
    ranks: Ranks = ALONE


class Loop(SFTTrainer):
    """TRL's trainer for rows that are encoded already.

    Args:
        conduct: How it behaves beyond what transformers knows.
        arguments: Those of `SFTTrainer`.
    """

    def __init__(self, conduct: Conduct, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.conduct = conduct
        self.latest: tuple[int, Evaluation] | None = None
        """The last evaluation, and its step."""
        self.saved_step, self._saved_path = conduct.tally.step, conduct.resumption.path
        self.checkpointed_at = time.monotonic()
        self.grad_norm = 0.0
        self.seen_tokens = 0
        """Tokens of this attempt that were not padding, whether or not they were to be predicted."""
        self.recent = Mean()
        """The loss since the last progress."""
        self._uncounted = [0.0, 0, 0]
        """Of this rank, in this step: the sum of its losses, tokens trained on, and tokens that were not padding."""
        self.model_accepts_loss_kwargs = True  # TRL takes the loss of the tokens itself, and by all tokens of a step
        for parameter in self.tuned.parameters():  # TRL makes adapters on a quantized base bf16, and small steps zero
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.remove_callback(PrinterCallback)
        self._hooks = Hooks(self)
        self.add_callback(self._hooks)

    @property
    def tuned(self) -> PreTrainedModel | PeftModel:
        """The model that is trained."""
        return cast("PreTrainedModel | PeftModel", self.model)

    @property
    def is_saved(self) -> bool:
        """Whether all that was trained is in a checkpoint."""
        return self.state.global_step in (0, self.saved_step)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stop: an order to stop came; if it wanted a checkpoint, there is one.
            DivergedError: a loss or a gradient norm was not finite.
        """
        self.conduct.reporter.check_stop()
        checkpoint = self.conduct.resumption.path
        if checkpoint is None or not self._is_done(checkpoint):
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self.conduct.reporter.end()
        self.conduct.reporter.check_stop()

    def _is_done(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint is that of the last step; if so, its weights are loaded and training is over.

        Resumed at the last step, transformers would train one more. An evaluation that the checkpoint owes comes first:
        it may be the best, or the last.

        Raises:
            Stop: an order to stop came within that evaluation.
        """
        conduct, state = self.conduct, TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        is_last = state.global_step >= state.max_steps
        if not (is_last or conduct.tally.owes_evaluation or conduct.criterion.gives_up(conduct.tally)):
            return False
        self.state = state
        self._load_from_checkpoint(str(checkpoint))
        self._hooks.on_train_begin()
        if conduct.tally.owes_evaluation:
            self.evaluate()
            conduct.reporter.check_stop()
        return is_last or conduct.criterion.gives_up(conduct.tally)

    def load_best(self) -> bool:
        """Go back to the best model, and return whether that is another than the last."""
        best = self.conduct.tally.best
        if not self.conduct.keeps_best or best is None or best.path is None or best.step == self.state.global_step:
            return False
        self._load_from_checkpoint(best.path)
        return True

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the batches of this rank."""
        rows: Any = self.train_dataset
        return DataLoader(
            rows,
            batch_sampler=DealtBatches(
                rows, self.args.per_device_train_batch_size, seed=self.args.seed, ranks=self.conduct.ranks
            ),
            collate_fn=lambda batch: self.data_collator(batch or [NOTHING]),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Return a micro-batch's loss, and take note of what it adds to the step's."""
        trained, seen = int((inputs["labels"][:, 1:] != NOT_TRAINED).sum()), int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(  # type: ignore[no-untyped-call]
            model, inputs, num_items_in_batch
        )
        # The batch's sum, divided by the tokens of all ranks' step, times the ranks: over them gradients are averaged
        total = float(loss * (num_items_in_batch or 0)) / self.conduct.ranks.size
        added = (total, trained, seen if trained else 0)
        self._uncounted = [before + more for before, more in zip(self._uncounted, added, strict=True)]
        return loss

    def count_step(self) -> None:
        """Count what all ranks have trained on in this step.

        Raises:
            DivergedError: their loss is not finite.
        """
        total, trained, seen = self.conduct.ranks.sum(self._uncounted)
        self._uncounted = [0.0, 0, 0]
        if not math.isfinite(total):
            raise self.diverged("loss", total, self.state.global_step + 1)
        self.conduct.tally.add(total, int(trained))
        self.recent.add(total, int(trained))
        self.seen_tokens += int(seen)

    def diverged(self, what: str, value: float, step: int) -> DivergedError:
        """Return the error of a step where something that must be finite is not."""
        good = f"the last good checkpoint is that of step {self.saved_step}" if self.saved_step else "no checkpoint yet"
        return DivergedError(
            f"the {what} at step {step} is {value} (learning rate {self._get_learning_rate():.3g}; {good})",
            hint="lower the learning rate, add warmup_steps, or lower max_grad_norm",
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the held-out rows, token by token; an order to stop ends this, and training too."""
        conduct, step = self.conduct, self.state.global_step
        if conduct.held_out is None:
            return {}
        try:
            evaluation = conduct.held_out.measure(self.tuned, lambda _: self._in_evaluation())
        except Stop:
            self.obey()
            return {}
        if not math.isfinite(evaluation.loss):
            raise self.diverged("held-out loss", evaluation.loss, step)
        metrics = evaluation.metrics(conduct.metrics)
        conduct.reporter.say(Evaluated(of="tuned", stage=conduct.reporter.stage, step=step, metrics=metrics))
        conduct.reporter.line({"step": step, **{f"eval_{name}": value for name, value in metrics.items()}})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._judge(step, evaluation)
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of the training loss, the mean over all tokens since the last line."""
        conduct = self.conduct
        if "loss" in logs:
            conduct.reporter.line(
                {
                    "step": self.state.global_step,
                    "epoch": self.state.epoch,
                    "loss": conduct.tally.logged.take(),
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": finite(self.grad_norm),
                    "trained_tokens": conduct.tally.train.tokens,
                }
            )
        super().log(logs, start_time)

    def save(self) -> None:
        """Write a checkpoint of a training that has ended, unless there is one of its last step."""
        if not self.is_saved:
            self._save_checkpoint(self.tuned, trial=None)

    def obey(self) -> None:
        """End training at an order to stop, after a checkpoint if it wants one."""
        order = self.conduct.reporter.stop_order
        self.control.should_training_stop = True
        self.control.should_evaluate = False
        self.control.should_save = order is not None and order.save

    def _in_evaluation(self) -> None:
        self.conduct.reporter.still_at_work()
        self.conduct.reporter.check_stop()

    def _judge(self, step: int, evaluation: Evaluation) -> None:
        """Keep the best model, and give up where there was none for long."""
        conduct = self.conduct
        self.latest = (step, evaluation)
        tally, conduct.tally.owes_evaluation = conduct.tally, False
        is_best = conduct.criterion.judge(tally, step, evaluation.value(conduct.criterion.metric))
        if is_best and conduct.keeps_best:
            self.control.should_save = True
        if is_best and tally.best is not None and step == self.saved_step and self._saved_path is not None:
            tally.best.path = str(self._saved_path)  # the clock or the end of an attempt was before the evaluation
        if conduct.criterion.gives_up(conduct.tally):
            conduct.reporter.note(f"no improvement in {conduct.criterion.patience} evaluations: training ends")
            self.control.should_training_stop = True

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint: staged by transformers in all ranks, then renamed and told by the first."""
        conduct, step = self.conduct, self.state.global_step
        if step == self.saved_step:  # the end of an epoch can be a step to save at, too
            return
        Trainer._save_checkpoint(self, model, trial)  # noqa: SLF001 - TRL's own writes a model card beside it
        staged, final = conduct.checkpoints.staging / f"checkpoint-{step}", conduct.checkpoints.path_of(step)
        best = conduct.tally.best
        if best is not None and best.step == step:
            best.path = str(final)
        conduct.tally.step = step
        conduct.ranks.wait()  # each has written the state of its random numbers
        if conduct.ranks.is_first:
            self._commit(staged, step)
        conduct.ranks.wait()
        self.saved_step, self._saved_path, self.checkpointed_at = step, final, time.monotonic()

    def _commit(self, staged: Path, step: int) -> None:
        """Make a staged checkpoint count, and tell of it."""
        conduct, best = self.conduct, self.conduct.tally.best
        conduct.tally.save(staged)
        keep = best.path if best is not None and conduct.keeps_best else None
        digest, pruned = conduct.checkpoints.commit(staged, step, keep)
        path = str(conduct.checkpoints.path_of(step))
        conduct.reporter.say(
            CheckpointWritten(stage=conduct.reporter.stage, step=step, path=path, digest=digest, pruned=pruned)
        )

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> float:
        """Return the norm of the gradients before they were clipped, and keep it."""
        self.grad_norm = float(super()._get_grad_norm(model, grad_norm))  # type: ignore[no-untyped-call]
        return self.grad_norm

    def _send_telemetry(self) -> None:
        """Tell nobody outside what is trained here."""
