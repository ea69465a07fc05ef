"""What a model's own files say about it, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "context_length",
)
"""Where `config.json` keeps the context, by architecture."""
_NO_CONTEXT = frozenset({"bloom"})  # ALiBi has no last position; its `seq_length` is the one it was trained with
HEAD = "lm_head"  # files leave it out where its weight is the embedding's, and some use another name for it


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the checks at submit need to know of a base model."""

    model_type: str
    """As transformers calls the architecture, such as `gpt2`."""
    architecture: str | None
    """The class, such as `GPT2LMHeadModel`."""
    context_length: int | None
    """Tokens; None where the model sets no limit, or its files do not say."""
    modules: frozenset[str]
    """Paths of the modules with a 2-D weight: linear layers and embeddings."""
    other_modules: frozenset[str]
    """Paths of the modules with weights of other shapes only, such as norms."""
    dtype: str | None
    num_parameters: int


def facts_of(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> ModelFacts:
    """Return the facts about a model.

    Args:
        config: The parsed `config.json`.
        tensors: The entries of all its safetensors headers, `{name: {"dtype": ..., "shape": [...]}}`.
    """
    text = config.get("text_config")
    of_text = {**config, **text} if isinstance(text, Mapping) else config  # models of text and images nest it
    shapes = {name: tensor["shape"] for name, tensor in tensors.items() if name != "__metadata__"}
    is_matrix = {name: name.endswith(".weight") and len(shape) == 2 for name, shape in shapes.items()}  # noqa: PLR2004
    matrices = {_module(name) for name in shapes if is_matrix[name]}
    dtype = of_text.get("dtype") or of_text.get("torch_dtype")
    return ModelFacts(
        model_type=str(config.get("model_type", "unknown")),
        architecture=next(iter(config.get("architectures") or ()), None),
        context_length=_context_length(of_text),
        modules=frozenset(matrices | {HEAD}),
        other_modules=frozenset({_module(name) for name in shapes} - matrices),
        dtype=dtype if isinstance(dtype, str) else None,
        num_parameters=sum(prod(shape) for shape in shapes.values()),
    )


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _context_length(config: Mapping[str, Any]) -> int | None:
    """Return the greatest context that the configuration speaks of.

    A model whose positions are scaled may state both the context it was pretrained with and the one it is good for.
    """
    if config.get("model_type") in _NO_CONTEXT:
        return None
    stated = [config.get(key) for key in _CONTEXT_KEYS]
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rope, Mapping):
        original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
        if isinstance(original, int) and isinstance(factor, int | float):
            stated.append(int(original * factor))
    lengths = [length for length in stated if isinstance(length, int) and length > 0]
    return max(lengths, default=None)
