"""A GGUF file becomes, once, a directory that any model library loads."""

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors import safe_open

from ftactors.core.errors import ModelImportError
from ftactors.models import inspect_model
from ftactors.models.gguf_file import convert_gguf
from tests.tiny import make_tokenizer

HIDDEN, FEED_FORWARD, HEADS = 64, 128, 4


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, np.ndarray]:
    """Write a one-layer model with 8-bit weights, and return those as they were before."""
    bpe = json.loads(make_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), HIDDEN),
        "output": (len(tokens), HIDDEN),
        **{f"blk.0.attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (FEED_FORWARD, HIDDEN) for name in ("gate", "up")},
        "blk.0.ffn_down": (HIDDEN, FEED_FORWARD),
    }
    weights = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, weight in weights.items():
        packed = quants.quantize(weight, GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_becomes_bf16_safetensors_that_hold_its_weights(tmp_path):
    weights = write_gguf(tmp_path / "tiny.gguf")

    directory = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "models" / "tiny")

    facts = inspect_model(str(directory)).facts
    assert (facts.model_type, facts.context_length, facts.dtype) == ("llama", 128, "bfloat16")
    assert (directory / "tokenizer.json").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["tiny"]
    with safe_open(directory / "model.safetensors", framework="pt") as saved:
        up = saved.get_tensor("model.layers.0.mlp.up_proj.weight").float().numpy()
    np.testing.assert_allclose(up, weights["blk.0.ffn_up"], atol=0.05)


def test_a_gguf_file_of_an_architecture_that_is_not_known_is_refused_and_leaves_nothing(tmp_path):
    write_gguf(tmp_path / "odd.gguf", architecture="odd")

    with pytest.raises(ModelImportError) as refused:
        convert_gguf(tmp_path / "odd.gguf", tmp_path / "models" / "odd")

    assert "odd.gguf cannot be converted to safetensors: " in str(refused.value)
    assert list((tmp_path / "models").iterdir()) == []
