"""When a job evaluates, where it does not say so itself."""

from __future__ import annotations

from typing import Literal

from ftactors.core.config import FineTuningJobConfig


def evaluation_strategy_of(config: FineTuningJobConfig) -> Literal["no", "steps", "epoch"]:
    """Return what was asked; else what fits the rest: `epoch` in general, and `no` without held-out data."""
    training = config.hyperparameters
    if training.evaluation_strategy is not None:
        return training.evaluation_strategy
    if not config.dataset_config.has_validation:
        return "no"
    if training.eval_steps is not None:
        return "steps"
    return training.save_strategy if training.load_best_model_at_end else "epoch"


def eval_steps_of(config: FineTuningJobConfig) -> int:
    """Return the steps between evaluations, for the strategy `steps`."""
    training = config.hyperparameters
    if training.eval_steps is not None:
        return training.eval_steps
    follows_saving = training.evaluation_strategy is None and training.load_best_model_at_end
    return training.save_steps if follows_saving else training.logging_steps
