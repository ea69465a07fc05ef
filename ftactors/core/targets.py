"""Which of a model's modules a list of names means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftactors.core.architectures import HOLDERS, LAYER_NAMES
from ftactors.core.model_facts import HEAD, ModelFacts


@dataclass(frozen=True, slots=True)
class Targets:
    """Names, as far as a model knows them."""

    names: tuple[str, ...]
    """What to tune: the names that the model has, and its own for those it calls otherwise; none twice."""
    renamed: tuple[tuple[str, str], ...]
    """Asked names that the model lacks, each with the model's own."""
    unknown: tuple[str, ...]


def find_targets(asked: Sequence[str], facts: ModelFacts, modules: frozenset[str] | None = None) -> Targets:
    """Return what the names mean in the model, `modules` or all those with a 2-D weight."""
    known = facts.modules if modules is None else modules
    table = LAYER_NAMES.get(facts.model_type, {})
    own = {name: name if _has(known, name, facts.model_type) else table.get(name) for name in asked}
    found = {
        name: target for name, target in own.items() if target is not None and _has(known, target, facts.model_type)
    }
    return Targets(
        names=tuple(dict.fromkeys(found.values())),
        renamed=tuple((name, target) for name, target in found.items() if name != target),
        unknown=tuple(name for name in own if name not in found),
    )


def last_names(modules: Iterable[str]) -> set[str]:
    """Return the last part of each path, which is how PEFT's users name modules; list positions are no names."""
    names = {module.rpartition(".")[2] for module in modules}
    return {name for name in names if name and not name.isdigit()}


def _has(modules: frozenset[str], name: str, model_type: str) -> bool:
    """Whether the name is a module's path, or the end of one, as PEFT matches them.

    The files of a bare model leave out the attribute that holds it in the model with a head: there, `h.0.attn` is
    `transformer.h.0.attn`. The head itself lies beside that.
    """
    if any(module == name or module.endswith(f".{name}") for module in modules):
        return True
    holder = f"{HOLDERS.get(model_type, 'model')}."
    within = name.removeprefix(holder)
    if within in {name, HEAD} or any(module.startswith(holder) for module in modules):
        return False
    return within in modules
