"""From what a driver asks for to the event that accepts it: parsed, checked, resolved, with the base model found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import ConfigProblem, InvalidJobConfigError, ModelImportError, ModelNotFoundError
from ftactors.core.events import JobSubmitted, ModelRef, RegistrarRef
from ftactors.core.feasible import ClusterFacts
from ftactors.core.load import Draft, draft_job
from ftactors.core.problems import value_of
from ftactors.core.resolve import Resolved, resolve
from ftactors.core.service_config import ServiceConfig
from ftactors.jobfile import read_job_file
from ftactors.models import BaseModelFound, LLMModelManager
from ftactors.models.registrar import IN_A_SCRIPT, why_not_importable
from handlers import HANDLERS
from trainers import TRAINERS

_LONGEST_KEY = 255


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
        """Return the fact that accepts the job under this id.

        Raises:
            InvalidJobConfigError: the key is not one that can be stored.
        """
        if idempotency_key is not None and not _is_key(idempotency_key):
            message = f"must be of printable characters, at least one and at most {_LONGEST_KEY}"
            raise InvalidJobConfigError([ConfigProblem("idempotency_key", message, value_of(idempotency_key))])
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
    cluster: ClusterFacts,
) -> Submission:
    """Return the job as it can be accepted.

    Raises:
        InvalidJobConfigError: with every problem of the configuration.
        ModelNotFoundError: there is no such base model.
    """
    draft, asked = await _asked(source)
    choose = partial(
        resolve,
        asked,
        cluster=cluster,
        runs_dir=str(rules.runs_dir),
        cwd=str(Path.cwd()),
        problems=[*draft.problems, *_outside_roots(draft, asked, rules)],
    )
    if draft.base_model_id is None:
        choose(facts=None)  # raises: that field's own problem is known
    base = await _base(draft.config.base_model_id, manager, choose)
    resolved = choose(facts=base.facts)
    return Submission(
        config=resolved.config,
        config_digest=_digest(asked),
        base=base.ref,
        trainer=_import_path("fine_tuning_technique.method", factories.trainer_of, asked.fine_tuning_technique.method),
        handler=_import_path("dataset_config.source_type", factories.handler_of, asked.dataset_config.source_type),
        warnings=tuple(resolved.warnings),
        registrar=manager.registrar(),
    )


async def digest_of(source: FineTuningJobConfig | Mapping[str, Any] | str | Path) -> str:
    """Return what a job's configuration is known again by, without looking at its base model."""
    return _digest((await _asked(source))[1])


async def _asked(source: FineTuningJobConfig | Mapping[str, Any] | str | Path) -> tuple[Draft, FineTuningJobConfig]:
    draft = draft_job(await asyncio.to_thread(read_job_file, source) if isinstance(source, str | Path) else source)
    return draft, _at_home(draft.config)


def _digest(asked: FineTuningJobConfig) -> str:
    """Return a digest of what is not as by default, so that a field that a later version adds changes none."""
    return blake2b(asked.model_dump_json(exclude_defaults=True).encode(), digest_size=16).hexdigest()


def _at_home(config: FineTuningJobConfig) -> FineTuningJobConfig:
    """Return the job with `~`, and the folder that an id of a data set names here, written out for other machines."""
    base, source = config.hyperparameters.output_dir_base, config.dataset_config
    changes: dict[str, Any] = {}
    if base is not None:
        changes["hyperparameters"] = config.hyperparameters.model_copy(update={"output_dir_base": _written_out(base)})
    path = _written_out(source.path_or_id)
    if source.source_type == "file_path":
        changes["dataset_config"] = source.model_copy(update={"path_or_id": path})
    elif source.source_type == "hf_dataset" and (source.is_path or _is_on_disk(path)):
        changes["dataset_config"] = source.model_copy(update={"path_or_id": str(Path.cwd() / path)})
    return config.model_copy(update=changes)


def _written_out(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # there is no such user here
        return path


def _is_on_disk(hub_id: str) -> bool:
    """Return whether a folder has the name, which `datasets` would read; an id with `..` can be nothing else."""
    return ".." in Path(hub_id).parts or Path(hub_id).exists()


async def _base(model_id: str, manager: LLMModelManager, choose: Callable[..., Resolved]) -> BaseModelFound:
    """Return the base model; where there is none, what else is wrong is told with it.

    Raises:
        InvalidJobConfigError: with all that `choose` finds wrong without a model's facts, and the missing model.
        ModelNotFoundError, ModelImportError: nothing else is wrong.
    """
    try:
        return await manager.find_base(model_id)
    except (ModelNotFoundError, ModelImportError) as missing:
        try:
            choose(facts=None)
        except InvalidJobConfigError as error:
            problem = ConfigProblem("base_model_id", str(missing), value_of(model_id))
            raise InvalidJobConfigError([*error.problems, problem]) from None
        raise


def _import_path(field: str, factory: Callable[[str], str | type], name: str) -> str:
    """Return how the job's process finds the class that the factory answers with.

    Raises:
        InvalidJobConfigError: that process cannot import it.
    """
    target = factory(name)
    if isinstance(target, str):
        path, why = target, IN_A_SCRIPT if target.startswith("__main__:") else None
    else:
        path, why = f"{target.__module__}:{target.__qualname__}", why_not_importable(target)
        if why is None and "." in target.__qualname__:
            why = "it is defined inside a class; move it to the top of its module"
    if why is not None:
        message = f"is served by {path}, which the job's process cannot import: {why}"
        raise InvalidJobConfigError([ConfigProblem(field, message, value_of(name))])
    return path


def _outside_roots(draft: Draft, asked: FineTuningJobConfig, rules: ServiceConfig) -> list[ConfigProblem]:
    """Return a problem for each path that is under none of `allowed_roots`, where those are set."""
    if rules.allowed_roots is None:
        return []
    roots = [Path(root).expanduser().resolve() for root in rules.allowed_roots]
    invalid = tuple(problem.field for problem in draft.problems)  # others stand there in the place of what was asked
    paths = {}
    if asked.hyperparameters.output_dir_base is not None:
        paths["hyperparameters.output_dir_base"] = asked.hyperparameters.output_dir_base
    if asked.dataset_config.is_path and "dataset_config.source_type" not in invalid:
        paths["dataset_config.path_or_id"] = asked.dataset_config.path_or_id
    return [
        ConfigProblem(field, f"must lie under one of {', '.join(map(str, roots))} (allowed_roots)", value_of(path))
        for field, path in paths.items()
        if not field.startswith(invalid) and not any(Path(path).resolve().is_relative_to(root) for root in roots)
    ]


def _is_key(key: str) -> bool:
    """Return whether every database can hold the key in an index."""
    return key.isprintable() and 0 < len(key) <= _LONGEST_KEY
