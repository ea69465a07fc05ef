"""What architectures call the layers that Llama calls `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, ….

Configurations are often written with Llama's names; where a model has fused or renamed these layers, its own are tuned.

Source: the attention and MLP classes of transformers' `models/<model_type>/modeling_<model_type>.py`; the names of the
attention layers agree with PEFT's `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING` (`peft/utils/constants.py`).
"""

from __future__ import annotations

from collections.abc import Mapping


def _layers(attention: tuple[str, str, str], output: str, up: str, down: str) -> dict[str, str]:
    """Return the table of one architecture, from its query, key and value on; `up` does the gate's work too."""
    query, key, value = attention
    return {
        "q_proj": query,
        "k_proj": key,
        "v_proj": value,
        "o_proj": output,
        "gate_proj": up,
        "up_proj": up,
        "down_proj": down,
    }


def _fused(attention: str, output: str, up: str, down: str) -> dict[str, str]:
    """Return the table of an architecture with query, key and value in one layer."""
    return _layers((attention, attention, attention), output, up, down)


def _separate(output: str, up: str, down: str) -> dict[str, str]:
    """Return the table of an architecture with Llama's query, key and value."""
    return _layers(("q_proj", "k_proj", "v_proj"), output, up, down)


_GPT2 = {
    **_fused("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),  # both blocks have a `c_proj`
    "embed_tokens": "wte",
}
_NEOX = _fused("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

LAYER_NAMES: Mapping[str, Mapping[str, str]] = {
    "bloom": {**_NEOX, "embed_tokens": "word_embeddings"},
    "chatglm": _NEOX,
    "codegen": _fused("qkv_proj", "out_proj", "fc_in", "fc_out") | {"embed_tokens": "wte"},
    "falcon": {**_NEOX, "embed_tokens": "word_embeddings"},
    "glm": _separate("o_proj", "gate_up_proj", "down_proj"),
    "glm4": _separate("o_proj", "gate_up_proj", "down_proj"),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": _separate("attn.attention.out_proj", "c_fc", "c_proj") | {"embed_tokens": "wte"},
    "gpt_neox": {**_NEOX, "embed_tokens": "embed_in"},
    "gptj": _separate("out_proj", "fc_in", "fc_out") | {"embed_tokens": "wte"},
    "mpt": _fused("Wqkv", "out_proj", "up_proj", "down_proj") | {"embed_tokens": "wte"},
    "opt": _separate("out_proj", "fc1", "fc2"),
    "persimmon": _NEOX,
    "phi": _separate("dense", "fc1", "fc2"),
    "phi3": _fused("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "starcoder2": _separate("o_proj", "c_fc", "c_proj"),
}
"""By `model_type`: Llama's name of a layer to the architecture's own."""

HOLDERS: Mapping[str, str] = {
    **dict.fromkeys(
        ("bloom", "codegen", "ctrl", "dbrx", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt", "openai-gpt"),
        "transformer",
    ),
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2", "xlstm"), "backbone"),
    "biogpt": "biogpt",
    "gpt_neox": "gpt_neox",
    "gpt_neox_japanese": "gpt_neox_japanese",
    "rwkv": "rwkv",
}
"""By `model_type`: the attribute that holds the bare model in the one with a head; of all others, it is `model`.

Source: `base_model_prefix` of the causal language models in the same files.
"""
