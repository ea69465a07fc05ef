"""What a job that was accepted will really do: every open choice made, for this model and this cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from posixpath import join
from typing import Any

from ftactors.core.config import (
    DatasetSourceConfig,
    FineTuningJobConfig,
    FineTuningTechniqueConfig,
    LoRAParams,
    ResourceConfig,
    TrainingHyperparameters,
)
from ftactors.core.errors import ConfigProblem, InvalidJobConfigError
from ftactors.core.feasible import ClusterFacts, why_never
from ftactors.core.model_facts import ModelFacts
from ftactors.core.problems import close_names, value_of
from ftactors.core.schedule import eval_steps_of, evaluation_strategy_of
from ftactors.core.targets import find_targets, last_names

_LEARNING_RATES = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4, "instructlab": 2e-5}
_MAX_SEQ_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Resolved:
    """A job with every choice made."""

    config: FineTuningJobConfig
    warnings: tuple[str, ...] = ()
    """What is done otherwise than it was asked for."""


@dataclass(slots=True)
class _Findings:
    """What was found on the way."""

    refuse: bool
    """Whether what the hardware or the model lacks is a problem (`on_unsupported="error"`) or a warning."""
    problems: list[ConfigProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lacking(self, path: str, value: object, what: str, instead: str) -> None:
        """Keep that something cannot be done as asked, and what is done in its place."""
        if self.refuse:
            self.problems.append(ConfigProblem(path, f"{what}; possible is: {instead}", value_of(value)))
        else:
            self.warnings.append(f"{path}={value!r}: {what}; done instead: {instead}")


def resolve(
    config: FineTuningJobConfig,
    *,
    facts: ModelFacts | None,
    cluster: ClusterFacts,
    runs_dir: str,
    cwd: str | None = None,
    problems: Sequence[ConfigProblem] = (),
) -> Resolved:
    """Return the job with every field decided that can be decided before it runs.

    Args:
        config: A job that `check_job` finds nothing wrong with, or the config of a `Draft`.
        facts: The base model; None where its files cannot be read here, and nothing is checked against them.
        cluster: What the nodes have that are up or could come. What none of them could ever hold is refused.
        runs_dir: Where jobs write that do not say.
        cwd: Where relative paths begin; None leaves them as they are.
        problems: What is known to be wrong already; raised with the rest.

    Raises:
        InvalidJobConfigError: with all that is wrong.
    """
    found = _Findings(refuse=config.on_unsupported == "error", problems=list(problems))
    resources = _resources(config.resources, cluster)
    if not any(problem.field.startswith("resources") for problem in problems):  # else a default may stand there
        found.problems.extend(why_never(config.resources, resources, cluster))
    training = _schedule(config) | _precision(config.hyperparameters, found, on_gpu=bool(resources.num_gpus))
    training |= {
        "output_dir_base": _absolute(config.hyperparameters.output_dir_base or runs_dir, cwd),
        "learning_rate": config.hyperparameters.learning_rate or _LEARNING_RATES[config.fine_tuning_technique.method],
        "max_seq_length": _max_seq_length(config, facts, found),
    }
    resolved = config.model_copy(
        update={
            "dataset_config": _data(config.dataset_config, cwd),
            "fine_tuning_technique": _technique(config, facts, found),
            "hyperparameters": config.hyperparameters.model_copy(update=training),
            "evaluation_config": config.evaluation,
            "resources": resources,
        }
    )
    if found.problems:
        raise InvalidJobConfigError(found.problems)
    return Resolved(resolved, tuple(found.warnings))


def _resources(asked: ResourceConfig, cluster: ClusterFacts) -> ResourceConfig:
    """Return the resources with a device chosen where none was asked for: a GPU where one is up.

    One that the autoscaler could bring is waited for only where it was asked for: without a GPU, training goes on CPUs.
    """
    if asked.num_gpus is not None:
        return asked
    return asked.model_copy(update={"num_gpus": 1.0 if cluster.gpus else 0.0})


def _schedule(config: FineTuningJobConfig) -> dict[str, Any]:
    """Return when to evaluate, and by what to choose the best model."""
    training, strategy = config.hyperparameters, evaluation_strategy_of(config)
    best = training.metric_for_best_model
    if best is None and (training.load_best_model_at_end or training.early_stopping_patience is not None):
        metrics = config.evaluation.metrics
        best = "loss" if "loss" in metrics else metrics[0]
    return {
        "evaluation_strategy": strategy,
        "eval_steps": eval_steps_of(config) if strategy == "steps" else training.eval_steps,
        "metric_for_best_model": best,
    }


def _precision(asked: TrainingHyperparameters, found: _Findings, *, on_gpu: bool) -> dict[str, Any]:
    """Return precision and memory; on a GPU, bf16 is left to the trainer, which sees whether the device has it."""
    checkpointing = on_gpu if asked.gradient_checkpointing is None else asked.gradient_checkpointing
    if on_gpu:
        return {"gradient_checkpointing": checkpointing, "bf16": False if asked.fp16 else asked.bf16}
    for name in ("fp16", "bf16"):
        if getattr(asked, name):
            found.lacking(
                f"hyperparameters.{name}", True, "the job trains on a CPU, where that is slow or absent", "fp32"
            )
    return {"gradient_checkpointing": checkpointing, "fp16": False, "bf16": False}


def _max_seq_length(config: FineTuningJobConfig, facts: ModelFacts | None, found: _Findings) -> int:
    asked, context = config.hyperparameters.max_seq_length, facts.context_length if facts else None
    if asked is None:
        return min(_MAX_SEQ_LENGTH, context or _MAX_SEQ_LENGTH)
    if context is not None and asked > context:
        message = f"is above the context of {config.base_model_id}, which is {context} tokens; choose at most that"
        found.problems.append(ConfigProblem("hyperparameters.max_seq_length", message, value_of(asked)))
    return asked


def _technique(config: FineTuningJobConfig, facts: ModelFacts | None, found: _Findings) -> FineTuningTechniqueConfig:
    technique = config.fine_tuning_technique
    params = technique.params
    if facts is None or not isinstance(params, LoRAParams):
        return technique
    updates: dict[str, Any] = {}
    if not isinstance(params.target_modules, str):
        updates["target_modules"] = _modules("target_modules", params.target_modules, facts, facts.modules, found)
    if params.modules_to_save:
        every = facts.modules | facts.other_modules
        updates["modules_to_save"] = _modules("modules_to_save", params.modules_to_save, facts, every, found)
    return technique.model_copy(update={"params": params.model_copy(update=updates)}) if updates else technique


def _modules(name: str, asked: list[str], facts: ModelFacts, modules: frozenset[str], found: _Findings) -> list[str]:
    """Return the model's own names of the modules that were asked for."""
    path, model = f"fine_tuning_technique.params.{name}", facts.model_type
    targets = find_targets(asked, facts, modules)
    for unknown in targets.unknown:
        message = f"{model} has no such module; {close_names(unknown, last_names(modules))}"
        found.problems.append(ConfigProblem(path, message, value_of(unknown)))
    for own in dict.fromkeys(own for _, own in targets.renamed):
        names = [name for name, other in targets.renamed if other == own]
        found.lacking(path, names, f"{model} has no module {' or '.join(map(repr, names))}", repr(own))
    return list(targets.names)


def _data(asked: DatasetSourceConfig, cwd: str | None) -> DatasetSourceConfig:
    if not asked.is_path:
        return asked
    return asked.model_copy(update={"path_or_id": _absolute(asked.path_or_id, cwd)})


def _absolute(path: str, cwd: str | None) -> str:
    """Return the path as the job's process can use it, which runs in another directory."""
    return path if cwd is None or path.startswith("~") or "://" in path else join(cwd, path)
