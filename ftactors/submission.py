"""From what a driver asks for to the event that accepts it: parsed, checked, resolved, with the base model found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import ConfigProblem, InvalidJobConfigError, ModelImportError, ModelNotFoundError
from ftactors.core.events import JobSubmitted, ModelRef, RegistrarRef
from ftactors.core.load import draft_job
from ftactors.core.problems import value_of
from ftactors.core.resolve import resolve
from ftactors.core.service_config import ServiceConfig
from ftactors.jobfile import read_job_file
from ftactors.models import BaseModelFound, LLMModelManager
from handlers import HANDLERS
from trainers import TRAINERS


@dataclass(frozen=True, slots=True)
class Factories:
    """Who trains by a method, and who reads a source; each answers with a class or its import path."""

    trainer_of: Callable[[str], str | type]
    handler_of: Callable[[str], str | type]

    @staticmethod
    def trainer(method: str) -> str:
        """Return the import path of our trainer for a method."""
        return TRAINERS[method]

    @staticmethod
    def handler(source_type: str) -> str:
        """Return the import path of our handler for a source type."""
        return HANDLERS[source_type]


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that can be accepted."""

    config: FineTuningJobConfig
    config_digest: str
    base: ModelRef
    trainer: str
    handler: str
    warnings: tuple[str, ...]
    registrar: RegistrarRef | None

    def event(self, job_id: str, idempotency_key: str | None, *, by: str) -> JobSubmitted:
        """Return the fact that accepts the job under this id."""
        return JobSubmitted(
            job_id=job_id,
            config=self.config.model_dump(mode="json"),
            config_digest=self.config_digest,
            idempotency_key=idempotency_key,
            base=self.base,
            trainer=self.trainer,
            handler=self.handler,
            run_dir=str(Path(str(self.config.hyperparameters.output_dir_base)) / job_id),
            by=by,
            warnings=self.warnings,
            registrar=self.registrar,
        )


async def plan_submission(
    source: FineTuningJobConfig | Mapping[str, Any] | str | Path,
    manager: LLMModelManager,
    rules: ServiceConfig,
    factories: Factories,
    *,
    has_gpus: bool,
) -> Submission:
    """Return the job as it can be accepted.

    Raises:
        InvalidJobConfigError: with every problem of the configuration.
        ModelNotFoundError: there is no such base model.
    """
    draft = draft_job(await asyncio.to_thread(read_job_file, source) if isinstance(source, str | Path) else source)
    asked = _at_home(draft.config)
    problems = [*draft.problems, *_outside_roots(asked, rules)]
    base = await _base(draft.base_model_id, manager, problems)
    resolved = resolve(
        asked,
        facts=base.facts,
        cluster_has_gpus=has_gpus,
        runs_dir=str(rules.runs_dir),
        cwd=str(Path.cwd()),
        problems=problems,
    )
    return Submission(
        config=resolved.config,
        config_digest=blake2b(asked.model_dump_json().encode(), digest_size=16).hexdigest(),
        base=base.ref,
        trainer=_import_path(factories.trainer_of(asked.fine_tuning_technique.method)),
        handler=_import_path(factories.handler_of(asked.dataset_config.source_type)),
        warnings=tuple(resolved.warnings),
        registrar=manager.registrar(),
    )


def _at_home(config: FineTuningJobConfig) -> FineTuningJobConfig:
    """Return the job with `~` written out, which other machines would read in another way."""
    base, source = config.hyperparameters.output_dir_base, config.dataset_config
    changes: dict[str, Any] = {}
    if base is not None:
        expanded = {"output_dir_base": str(Path(base).expanduser())}
        changes["hyperparameters"] = config.hyperparameters.model_copy(update=expanded)
    if source.source_type == "file_path":
        changes["dataset_config"] = source.model_copy(update={"path_or_id": str(Path(source.path_or_id).expanduser())})
    return config.model_copy(update=changes)


async def _base(model_id: str | None, manager: LLMModelManager, problems: list[ConfigProblem]) -> BaseModelFound:
    """Return the base model; where there is none, the other problems go first, for they can be told all at once."""
    if model_id is None:
        raise InvalidJobConfigError(problems)
    try:
        return await manager.find_base(model_id)
    except (ModelNotFoundError, ModelImportError):
        if problems:
            raise InvalidJobConfigError(problems) from None
        raise


def _import_path(target: str | type) -> str:
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _outside_roots(config: FineTuningJobConfig, rules: ServiceConfig) -> list[ConfigProblem]:
    """Return a problem for each path that is under none of `allowed_roots`, where those are set."""
    if rules.allowed_roots is None:
        return []
    roots = [Path(root).expanduser().resolve() for root in rules.allowed_roots]
    paths = {}
    if config.hyperparameters.output_dir_base is not None:
        paths["hyperparameters.output_dir_base"] = config.hyperparameters.output_dir_base
    if config.dataset_config.source_type == "file_path":
        paths["dataset_config.path_or_id"] = config.dataset_config.path_or_id
    return [
        ConfigProblem(field, f"must lie under one of {', '.join(map(str, roots))} (allowed_roots)", value_of(path))
        for field, path in paths.items()
        if not any(Path(path).expanduser().resolve().is_relative_to(root) for root in roots)
    ]
