"""What can be wrong between the fields of technique, hyperparameters and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ftactors.core.config import FineTuningJobConfig, QLoRAParams
from ftactors.core.errors import ConfigProblem
from ftactors.core.problems import value_of
from ftactors.core.rules import Rules, asked
from ftactors.core.schedule import eval_steps_of, evaluation_strategy_of

RULES = Rules()

_STRATEGY = ("hyperparameters.evaluation_strategy", "hyperparameters.eval_strategy")  # one field, by both its names
_OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
_VALIDATION = ("dataset_config.validation_split_name", "dataset_config.validation_split_ratio")
_NEEDS_HELD_OUT_DATA = (
    "needs held-out data; set dataset_config.validation_split_name or dataset_config.validation_split_ratio"
)


@RULES.reads("fine_tuning_technique.method")
def _method_is_there(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.fine_tuning_technique.method == "instructlab":
        yield ConfigProblem(
            "fine_tuning_technique.method", "is not in this version; 'full', 'lora' and 'qlora' are", "'instructlab'"
        )


@RULES.reads("fine_tuning_technique")
def _eight_bits(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    params = config.fine_tuning_technique.params
    if not isinstance(params, QLoRAParams) or params.bits != 8:  # noqa: PLR2004 - the bits themselves
        return
    at = "fine_tuning_technique.params"
    if params.use_dora:
        yield ConfigProblem(f"{at}.use_dora", "works with bits=4, not with bits=8; ask for one of the two", "True")
    for name in ("quant_type", "double_quant"):
        if asked(params, name):
            message = "has a meaning only with bits=4, and bits is 8; leave it out, or ask for bits=4"
            yield ConfigProblem(f"{at}.{name}", message, value_of(getattr(params, name)))


@RULES.reads("continue_adapter", "fine_tuning_technique.method")
def _an_adapter_goes_on_as_one(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.continue_adapter and config.fine_tuning_technique.method == "full":
        yield ConfigProblem(
            "continue_adapter", "trains an adapter on, and method 'full' has none; use method 'lora' or 'qlora'", "True"
        )


@RULES.reads("hyperparameters.fp16", "hyperparameters.bf16")
def _one_precision(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.hyperparameters.fp16 and config.hyperparameters.bf16:
        yield ConfigProblem("hyperparameters.fp16", "cannot be set together with bf16; choose one of the two", "True")


@RULES.reads("hyperparameters.warmup_ratio", "hyperparameters.warmup_steps")
def _one_warmup(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    if training.warmup_ratio and training.warmup_steps:
        message = f"cannot be set together with warmup_steps ({training.warmup_steps}); choose one of the two"
        yield ConfigProblem("hyperparameters.warmup_ratio", message, value_of(training.warmup_ratio))


@RULES.reads("hyperparameters.lr_scheduler_type", "hyperparameters.warmup_ratio", "hyperparameters.warmup_steps")
def _a_warmup_is_done(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    for name in ("warmup_ratio", "warmup_steps"):
        if training.lr_scheduler_type == "constant" and (value := getattr(training, name)):
            message = "has no effect with lr_scheduler_type 'constant'; choose 'constant_with_warmup', or leave it out"
            yield ConfigProblem(f"hyperparameters.{name}", message, value_of(value))


@RULES.reads("hyperparameters.optim", *(f"hyperparameters.{name}" for name in _OF_ADAM))
def _adam_is_used(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    for name in _OF_ADAM:
        if training.optim in ("sgd", "adafactor") and asked(training, name):
            message = f"has a meaning only with an Adam optimizer, and optim is {training.optim!r}; leave it out"
            yield ConfigProblem(f"hyperparameters.{name}", message, value_of(getattr(training, name)))


@RULES.reads("hyperparameters.save_steps", "hyperparameters.save_strategy")
def _save_steps_are_used(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    if training.save_strategy != "steps" and asked(training, "save_steps"):
        message = f"has a meaning only with save_strategy 'steps', and that is {training.save_strategy!r}"
        yield ConfigProblem("hyperparameters.save_steps", message, value_of(training.save_steps))


@RULES.reads("hyperparameters.eval_steps", *_STRATEGY)
def _eval_steps_are_used(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    if training.eval_steps is not None and training.evaluation_strategy not in (None, "steps"):
        message = f"has a meaning only with evaluation_strategy 'steps', and that is {training.evaluation_strategy!r}"
        yield ConfigProblem("hyperparameters.eval_steps", message, value_of(training.eval_steps))


@RULES.reads(*_STRATEGY, *_VALIDATION)
def _evaluation_has_data(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    strategy = config.hyperparameters.evaluation_strategy
    if strategy not in (None, "no") and not config.dataset_config.has_validation:
        message = f"{_NEEDS_HELD_OUT_DATA}, or choose 'no'"
        yield ConfigProblem("hyperparameters.evaluation_strategy", message, value_of(strategy))


def _needs_held_out_data(config: FineTuningJobConfig, *, name: str) -> Iterator[ConfigProblem]:
    value = getattr(config.hyperparameters, name)
    if value not in (None, False) and not config.dataset_config.has_validation:
        yield ConfigProblem(f"hyperparameters.{name}", _NEEDS_HELD_OUT_DATA, value_of(value))


def _needs_evaluations(config: FineTuningJobConfig, *, name: str) -> Iterator[ConfigProblem]:
    value = getattr(config.hyperparameters, name)
    if value not in (None, False) and config.hyperparameters.evaluation_strategy == "no":
        message = "needs evaluations, and evaluation_strategy is 'no'; choose 'steps' or 'epoch'"
        yield ConfigProblem(f"hyperparameters.{name}", message, value_of(value))


for _name in ("eval_steps", "early_stopping_patience", "load_best_model_at_end", "metric_for_best_model"):
    RULES.reads(f"hyperparameters.{_name}", *_VALIDATION)(partial(_needs_held_out_data, name=_name))
for _name in ("early_stopping_patience", "load_best_model_at_end"):
    RULES.reads(f"hyperparameters.{_name}", *_STRATEGY)(partial(_needs_evaluations, name=_name))


@RULES.reads("hyperparameters.early_stopping_threshold", "hyperparameters.early_stopping_patience")
def _the_threshold_stops_something(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training = config.hyperparameters
    if training.early_stopping_threshold and training.early_stopping_patience is None:
        message = "has a meaning only with early_stopping_patience; set that too, or leave it out"
        yield ConfigProblem(
            "hyperparameters.early_stopping_threshold", message, value_of(training.early_stopping_threshold)
        )


@RULES.reads(
    "hyperparameters.metric_for_best_model",
    "hyperparameters.load_best_model_at_end",
    "hyperparameters.early_stopping_patience",
    "evaluation_config.metrics",
    *_VALIDATION,
)
def _the_best_metric_chooses_something(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    training, metric = config.hyperparameters, config.hyperparameters.metric_for_best_model
    if metric is None or not config.dataset_config.has_validation or metric not in config.evaluation.metrics:
        return  # the latter two are other rules'
    if not training.load_best_model_at_end and training.early_stopping_patience is None:
        message = "has a meaning only with load_best_model_at_end or early_stopping_patience; set one, or leave it out"
        yield ConfigProblem("hyperparameters.metric_for_best_model", message, value_of(metric))


@RULES.reads("hyperparameters.metric_for_best_model", "evaluation_config.metrics")
def _the_best_metric_is_computed(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    metric, computed = config.hyperparameters.metric_for_best_model, config.evaluation.metrics
    if metric is not None and metric not in computed:
        message = f"is not computed; choose one of evaluation_config.metrics ({', '.join(computed)}), or add it there"
        yield ConfigProblem("hyperparameters.metric_for_best_model", message, value_of(metric))


@RULES.reads(
    *_STRATEGY,
    *_VALIDATION,
    "hyperparameters.load_best_model_at_end",
    "hyperparameters.save_strategy",
    "hyperparameters.save_steps",
    "hyperparameters.eval_steps",
    "hyperparameters.logging_steps",
)
def _the_best_model_has_a_checkpoint(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    """HF's rule: each evaluated model must have its checkpoint, or the best one may have none."""
    training = config.hyperparameters
    if not training.load_best_model_at_end:
        return
    if training.save_strategy == "no":
        message = "must be 'steps' or 'epoch' where load_best_model_at_end is set: the best model is a checkpoint"
        yield ConfigProblem("hyperparameters.save_strategy", message, "'no'")
        return
    strategy = evaluation_strategy_of(config)
    if strategy == "no":  # another rule's
        return
    if training.save_strategy != strategy:
        message = f"must be {strategy!r} like evaluation_strategy where load_best_model_at_end is set"
        yield ConfigProblem("hyperparameters.save_strategy", message, value_of(training.save_strategy))
    elif strategy == "steps" and training.save_steps % (every := eval_steps_of(config)):
        message = f"must be a multiple of the evaluation steps ({every}) where load_best_model_at_end is set"
        yield ConfigProblem("hyperparameters.save_steps", message, value_of(training.save_steps))
