"""Jobs to say something wrong in: one that is valid, and the same with a few values changed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from ftactors.core.errors import ConfigProblem
from ftactors.core.load import draft_job

VALID: dict[str, Any] = {
    "job_name": "a job",
    "base_model_id": "gpt2",
    "new_model_id": "gpt2-tuned",
    "dataset_config": {"source_type": "file_path", "path_or_id": "/data/rows.jsonl"},
    "fine_tuning_technique": {"method": "lora"},
}
HELD_OUT = {"dataset_config.validation_split_name": "validation"}
ABSENT = object()


def job(changes: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Return the valid job with other values at some paths; `ABSENT` takes a value out."""
    values = deepcopy(VALID)
    for path, value in changes.items():
        *parents, name = path.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        if value is ABSENT:
            del part[name]
        else:
            part[name] = value
    return values


def problems(changes: Mapping[str, Any]) -> tuple[ConfigProblem, ...]:
    """Return all that is wrong with the changed job."""
    return draft_job(job(changes)).problems


def only_problem(changes: Mapping[str, Any]) -> ConfigProblem:
    """Return the one thing that is wrong with the changed job."""
    found = problems(changes)
    assert len(found) == 1, found
    return found[0]
