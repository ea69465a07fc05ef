"""From what a user hands in to a `FineTuningJobConfig`, or to a list of all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftactors.core.checks import check_job
from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import ConfigProblem, InvalidJobConfigError
from ftactors.core.problems import value_of

_STAND_INS: Mapping[tuple[str, ...], str] = {
    ("job_name",): "unknown",
    ("base_model_id",): "unknown-base",
    ("new_model_id",): "unknown-new",
    ("dataset_config", "source_type"): "file_path",
    ("dataset_config", "path_or_id"): "unknown",
    ("fine_tuning_technique", "method"): "lora",
}
"""What takes the place of a required value that is missing or invalid, so that the rest can be checked."""
_ROUNDS = 8
"""More than a field's path has names."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A job as far as it could be read, with everything that is wrong with it."""

    config: FineTuningJobConfig
    """The job; defaults and stand-ins have the places of what is invalid."""
    problems: tuple[ConfigProblem, ...] = ()

    @property
    def base_model_id(self) -> str | None:
        """The base model that was asked for; None where that field itself is invalid."""
        known = all(problem.field != "base_model_id" for problem in self.problems)
        return self.config.base_model_id if known else None


def parse_job_config(source: FineTuningJobConfig | Mapping[str, Any]) -> FineTuningJobConfig:
    """Return the job that `source` asks for.

    Raises:
        InvalidJobConfigError: with every problem of a field and every contradiction between fields.
    """
    draft = draft_job(source)
    if draft.problems:
        raise InvalidJobConfigError(draft.problems)
    return draft.config


def draft_job(source: FineTuningJobConfig | Mapping[str, Any]) -> Draft:
    """Return the job as far as it can be read, for callers that have more to check before they refuse it.

    Raises:
        InvalidJobConfigError: `source` is neither a job nor a mapping.
    """
    if isinstance(source, FineTuningJobConfig):  # checked again: `model_copy(update=...)` does not check
        source = source.model_dump(exclude_unset=True, warnings=False)
    if not isinstance(source, Mapping):
        expected = "must be a FineTuningJobConfig, a mapping of its fields, or the path of a YAML or JSON file"
        raise InvalidJobConfigError([ConfigProblem("FineTuningJobConfig", expected, value_of(source))])
    problems: list[ConfigProblem] = []
    values = _plain(source, "", problems)
    problems += _merge_names_of_evaluation_strategy(values)
    config, invalid = _read(values)
    known = {problem.field for problem in problems}  # what was left out is not missing
    problems += (problem for problem in invalid if problem.field not in known)
    return Draft(config, (*problems, *check_job(config, unknown={problem.field for problem in problems})))


def _plain(source: Mapping[Any, Any], path: str, problems: list[ConfigProblem]) -> dict[str, Any]:
    """Return a copy of the nested mappings without keys that cannot be names, and text that cannot be stored.

    Both become problems.
    """
    values: dict[str, Any] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            problems.append(
                ConfigProblem(f"{path}{key}", "must be a name of a field, which is a string", value_of(key))
            )
            continue
        if _has_half_a_pair(key) or _has_half_a_pair(value):
            message = "must be Unicode, and holds half of a surrogate pair, which no file and no log can take"
            problems.append(ConfigProblem(ascii(f"{path}{key}")[1:-1], message, value_of(value)))
            continue
        values[key] = _plain(value, f"{path}{key}.", problems) if isinstance(value, Mapping) else value
    return values


def _has_half_a_pair(value: object) -> bool:
    if isinstance(value, str):
        return any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, list | tuple) and any(map(_has_half_a_pair, value))


def _merge_names_of_evaluation_strategy(values: dict[str, Any]) -> Iterator[ConfigProblem]:
    """Leave one of the field's two names where both are given; a problem where they differ."""
    asked = values.get("hyperparameters")
    if not isinstance(asked, dict) or not {"evaluation_strategy", "eval_strategy"} <= asked.keys():
        return
    other = asked.pop("eval_strategy")
    if other != asked["evaluation_strategy"]:
        message = (
            f"is another name of evaluation_strategy, which is {asked['evaluation_strategy']!r}; give one of the two"
        )
        yield ConfigProblem("hyperparameters.eval_strategy", message, value_of(other))


def _read(values: dict[str, Any]) -> tuple[FineTuningJobConfig, tuple[ConfigProblem, ...]]:
    """Return the job without its invalid values, and the problems of these."""
    found: tuple[ConfigProblem, ...] = ()
    for shorter_by in range(_ROUNDS):
        try:
            return FineTuningJobConfig(**values), found
        except InvalidJobConfigError as error:
            found = found or error.problems  # those of later rounds come from what is missing by then
            for problem in error.problems:
                _take_out(values, problem.field.split("."), shorter_by)
            _fill_in(values)
    return FineTuningJobConfig(**_fill_in({})), found


def _take_out(values: dict[str, Any], path: list[str], shorter_by: int) -> None:
    """Delete what lies at the path, or what holds it.

    Args:
        values: Nested dictionaries.
        path: The problem's field. It may be one that is missing, lie in a list, or have a dot in a name.
        shorter_by: Where taking out the value itself did not help, so many names fewer.
    """
    if path == ["fine_tuning_technique", "method"]:  # which also says what its neighbours mean
        path = path[:1]
    path = path[: max(1, len(path) - shorter_by)]
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values.pop(name, None)
            return
        values = values[name]
    values.pop(path[-1], None)


def _fill_in(values: dict[str, Any]) -> dict[str, Any]:
    """Put stand-ins where required values are missing."""
    for (*parents, name), stand_in in _STAND_INS.items():
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        if isinstance(part, dict):  # else it is an object, and valid
            part.setdefault(name, stand_in)
    return values
