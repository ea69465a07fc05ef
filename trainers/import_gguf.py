"""Convert a GGUF file, once, to a directory of bf16 safetensors that plain transformers loads.

A process of its own, for it loads torch: `python -m trainers.import_gguf SOURCE.gguf DESTINATION`. Where the file
cannot be converted it ends with a status above 0, and the last line of stderr says why.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel


def convert(source: Path, destination: Path) -> None:
    """Write model, tokenizer and chat template to `destination`, which appears complete or not at all."""
    staging = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        _dequantized(source).save_pretrained(staging)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(staging)
        _sync(staging)
        staging.rename(destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _dequantized(source: Path) -> PreTrainedModel:
    """Return the file's model with bf16 weights, as one that was never quantized.

    The loaded one counts as quantized, though its weights are not, and refuses to be saved: they move to a fresh one.
    """
    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(
            dequantize=True
        ),  # without it, weights stay packed where a kernel for them exists
        dtype=torch.bfloat16,
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model


def _sync(directory: Path) -> None:
    """Make the directory and its files durable."""
    for path in [*directory.iterdir(), directory]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m trainers.import_gguf", description=__doc__)
    parser.add_argument("source", type=Path, help="the GGUF file")
    parser.add_argument("destination", type=Path, help="the directory to make")
    asked = parser.parse_args(arguments)
    convert(asked.source.resolve(), asked.destination.resolve())


if __name__ == "__main__":
    main()
