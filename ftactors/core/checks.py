"""All that is wrong with a job though each of its fields is valid."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ftactors.core import data_rules, training_rules
from ftactors.core.config import FineTuningJobConfig
from ftactors.core.errors import ConfigProblem
from ftactors.core.problems import value_of
from ftactors.core.rules import Rules

RULES = Rules()

_LONGEST_METADATA_KEY = 64
_LONGEST_METADATA_VALUE = 512


def check_job(config: FineTuningJobConfig, unknown: Collection[str] = ()) -> list[ConfigProblem]:
    """Return every contradiction between fields.

    Args:
        config: The job.
        unknown: Paths of fields whose value here stands in for an invalid one; nothing is said about them.
    """
    books = (RULES, data_rules.RULES, training_rules.RULES)
    return [problem for rules in books for problem in rules.problems(config, unknown)]


@RULES.reads("resources.accelerator_type", "resources.num_gpus")
def _an_accelerator_is_a_gpu(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    resources = config.resources
    if resources.accelerator_type is not None and resources.num_gpus == 0:
        message = "asks for a GPU, and num_gpus is 0; leave one of the two out"
        yield ConfigProblem("resources.accelerator_type", message, value_of(resources.accelerator_type))


@RULES.reads("new_model_id", "base_model_id")
def _the_new_model_is_new(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    if config.new_model_id == config.base_model_id:
        message = "must differ from base_model_id: the base stays as it is"
        yield ConfigProblem("new_model_id", message, value_of(config.new_model_id))


@RULES.reads("metadata")
def _metadata_is_small(config: FineTuningJobConfig) -> Iterator[ConfigProblem]:
    for key, value in config.metadata.items():
        if len(key) > _LONGEST_METADATA_KEY:
            message = f"has a key of {len(key)} characters; at most {_LONGEST_METADATA_KEY} are possible"
            yield ConfigProblem("metadata", message, value_of(key))
        if len(value) > _LONGEST_METADATA_VALUE:
            message = f"has {len(value)} characters; at most {_LONGEST_METADATA_VALUE} are possible"
            yield ConfigProblem(f"metadata.{key}", message, value_of(value))
