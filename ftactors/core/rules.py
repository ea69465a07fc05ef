"""Rules about fields that are valid each by itself, and contradict each other or lack another.

Each rule names the fields it reads. Where one of them could not be read, the rule is left out: what it would say about
a default in the place of the user's value would be false.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from ftactors.core.config import Config, FineTuningJobConfig
from ftactors.core.errors import ConfigProblem

Check = Callable[[FineTuningJobConfig], Iterator[ConfigProblem]]


class Rules:
    """Rules in the order in which they were written down."""

    def __init__(self) -> None:
        self._rules: list[tuple[tuple[str, ...], Check]] = []

    def reads(self, *fields: str) -> Callable[[Check], Check]:
        """Make the function a rule, which reads these fields."""

        def enter(check: Check) -> Check:
            self._rules.append((fields, check))
            return check

        return enter

    def problems(self, config: FineTuningJobConfig, unknown: Collection[str]) -> Iterator[ConfigProblem]:
        """Yield what breaks a rule that reads none of the unknown fields."""
        for fields, check in self._rules:
            if not any(_overlap(field, path) for field in fields for path in unknown):
                yield from check(config)


def asked(part: Config, name: str) -> bool:
    """Return whether somebody chose the field's value.

    In a dump every field is set; there, one that has its default was not chosen.
    """
    fields = type(part).model_fields
    if name not in part.model_fields_set:
        return False
    return part.model_fields_set < fields.keys() or getattr(part, name) != fields[name].default


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other or lies within it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
