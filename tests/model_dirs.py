"""Model directories without weights: a configuration, and a safetensors header over zeros."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GPT2_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_positions": 1024,
    "n_ctx": 1024,
    "n_embd": 8,
    "dtype": "float32",
}
GPT2_SHAPES: dict[str, list[int]] = {
    "wte.weight": [50, 8],
    "wpe.weight": [16, 8],
    "ln_f.weight": [8],
    "h.0.ln_1.weight": [8],
    "h.0.attn.c_attn.weight": [8, 24],
    "h.0.attn.c_attn.bias": [24],
    "h.0.attn.c_proj.weight": [8, 8],
    "h.0.mlp.c_fc.weight": [8, 32],
    "h.0.mlp.c_proj.weight": [32, 8],
}
LLAMA_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
LLAMA_SHAPES = {
    "model.embed_tokens.weight": [50, 8],
    "model.norm.weight": [8],
    **{f"model.layers.0.self_attn.{name}_proj.weight": [8, 8] for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": [8, 8] for name in ("gate", "up", "down")},
}


def header(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """Return the entries of a safetensors header for F32 tensors of these shapes, one after the other."""
    tensors: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, size = end, 4
        for length in shape:
            size *= length
        end = begin + size
        tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    return tensors


def write_safetensors(path: Path, shapes: Mapping[str, list[int]]) -> None:
    """Write a file of zeros."""
    tensors = header(shapes)
    size = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))


def write_model(
    directory: Path,
    config: Mapping[str, Any] = GPT2_CONFIG,
    shapes: Mapping[str, list[int]] = GPT2_SHAPES,
) -> Path:
    """Write a model, gpt2-shaped unless said otherwise, and return its directory."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_safetensors(directory / "model.safetensors", shapes)
    return directory


def write_adapter(directory: Path, base: str) -> Path:
    """Write a PEFT adapter on a base, and return its directory."""
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    write_safetensors(directory / "adapter_model.safetensors", {"base_model.model.h.0.lora_A.weight": [2, 8]})
    return directory
