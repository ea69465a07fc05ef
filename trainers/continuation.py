"""What a job asks of an adapter that it trains on, and does not get."""

from __future__ import annotations

from typing import Any

from peft import PeftConfig

from ftactors.core.config import FineTuningJobConfig, LoRAParams
from ftactors.core.events import ModelRef


def ignored(config: FineTuningJobConfig, ref: ModelRef) -> tuple[str, ...]:
    """Return warnings of what has no effect: `continue_adapter` itself, or parameters that the adapter has otherwise.

    Parameters with their default values count as not asked for.
    """
    params = config.fine_tuning_technique.params
    if not config.continue_adapter or not isinstance(params, LoRAParams):
        return ()
    if ref.kind != "adapter":
        return (f"continue_adapter has no effect: the base model {ref.model_id} is no adapter, a new one is trained",)
    revision: dict[str, Any] = {} if ref.revision is None else {"revision": ref.revision}
    stored = PeftConfig.from_pretrained(ref.path, **revision)
    return tuple(
        f"{name}={asked!r} has no effect: the adapter {ref.model_id} is continued with its own {name}={has!r}"
        for name, asked, has in _differences(params, stored)
    )


def _differences(params: LoRAParams, stored: PeftConfig) -> list[tuple[str, object, object]]:
    """Return names, asked and stored values of the parameters that were asked for and are others in the adapter."""
    values = (
        (name, _plain(getattr(params, name)), _plain(getattr(stored, name, None)))
        for name, field in LoRAParams.model_fields.items()
        if getattr(params, name) != field.get_default()
    )
    return [(name, asked, has) for name, asked, has in values if asked != has]


def _plain(value: object) -> object:
    """Return a value that compares and prints: modules by the last part of their names, for PEFT stores whole ones."""
    if isinstance(value, list | set | tuple):
        return sorted({str(name).rpartition(".")[2] for name in value})
    return value
