"""From pydantic's errors to ours: the field's path, the value asked, and what would be valid."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from ftactors.core.errors import ConfigProblem, ConfigurationError
from ftactors.core.urls import without_password

_LONGEST_VALUE = 120


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[ConfigProblem]:
    """Return each of pydantic's errors as a problem in the words of a user."""
    return [problem for line in error.errors(include_url=False) for problem in _problems(line, model)]


def value_of(value: object) -> str:
    """Return `repr(value)` without the password of a URL, cut to a length that a terminal can show."""
    text = repr(without_password(value) if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def close_names(name: str, known: Collection[str]) -> str:
    """Return a question that names the known names close to `name`, or all where none is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(found) for found in close)}?"
    return f"known are {', '.join(names)}" if names else "none is known"


def _problems(line: Any, model: type[BaseModel]) -> Iterator[ConfigProblem]:
    field = ".".join(str(part) for part in line["loc"]) or model.__name__
    cause = line.get("ctx", {}).get("error")
    if isinstance(cause, ConfigurationError):  # of a part, which has listed its own
        yield from (replace(problem, field=f"{field}.{problem.field}") for problem in cause.problems)
        return
    match line["type"]:
        case "missing":
            yield ConfigProblem(field, "is required")
        case "extra_forbidden":
            close = close_names(str(line["loc"][-1]), set(model.model_fields))
            yield ConfigProblem(field, f"is not a field of {model.__name__}; {close}", value_of(line["input"]))
        case "literal_error":
            yield ConfigProblem(field, f"must be one of {line['ctx']['expected']}", value_of(line["input"]))
        case "value_error":
            yield ConfigProblem(field, str(cause), value_of(line["input"]))
        case _:
            message = re.sub(r"^\w+ should", "must", line["msg"])
            yield ConfigProblem(field, message, value_of(line["input"]))
