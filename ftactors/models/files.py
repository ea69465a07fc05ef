"""A model's directory, read without loading the model: its configuration, its weights' headers, a digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ftactors.core.errors import ModelImportError
from ftactors.core.model_facts import ModelFacts, facts_of

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_LONGEST_HEADER = 100_000_000  # the format's own limit
_SMALL_FILE = 1 << 20
_SAMPLES = 16


def is_model(directory: Path) -> bool:
    """Return whether the directory holds a model or an adapter, or at least its configuration."""
    return (directory / CONFIG).is_file() or is_adapter(directory)


def is_adapter(directory: Path) -> bool:
    """Return whether the directory holds a PEFT adapter."""
    return (directory / ADAPTER_CONFIG).is_file() and not (directory / CONFIG).is_file()


def read_facts(directory: Path) -> ModelFacts:
    """Return what a model's `config.json` and the headers of its weights say.

    Raises:
        ModelImportError: the directory has no complete model in safetensors.
    """
    config = _read_json(directory / CONFIG)
    tensors: dict[str, Any] = {}
    for path in _weight_files(directory):
        tensors |= read_header(path)
    return facts_of(config, tensors)


def read_adapter_base(directory: Path) -> tuple[str, str | None]:
    """Return the base model that an adapter names, and its revision.

    Raises:
        ModelImportError: the adapter is not complete, or names no base.
    """
    read_header(directory / _ADAPTER_WEIGHTS)
    config = _read_json(directory / ADAPTER_CONFIG)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelImportError(f"{directory / ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    return base, config.get("revision")


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header, its tensors' dtypes and shapes by name.

    Source: https://huggingface.co/docs/safetensors/index#format

    Raises:
        ModelImportError: the file is not there, is not safetensors, or is cut off.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise ModelImportError(f"{path} is not a safetensors file")
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            ends = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelImportError(f"{path} is not a safetensors file: {error}") from error
    size, expected = path.stat().st_size, 8 + length + ends
    if size < expected:
        raise ModelImportError(f"{path} is cut off: it has {size} of {expected} bytes; download or save it again")
    return header


def digest_of(path: Path) -> str:
    """Return a digest of a model's directory or file.

    Of each file: its name and size, and all of a small one; of a large one samples from beginning to end, which spares
    the reading of gigabytes.
    """
    digest = blake2b(digest_size=16)
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        for part in _samples(file):
            digest.update(part)
    return f"blake2b-sampled:{digest.hexdigest()}"


def _samples(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _SMALL_FILE:
            yield stream.read()
            return
        length = _SMALL_FILE // _SAMPLES
        for number in range(_SAMPLES):
            stream.seek((size - length) * number // (_SAMPLES - 1))
            yield stream.read(length)


def _weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a model, all of which may be expected to exist."""
    if (directory / _WEIGHTS).exists():
        return [directory / _WEIGHTS]
    if (directory / _INDEX).exists():
        shards = _read_json(directory / _INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelImportError(f"{directory / _INDEX} has no weight_map")
        return [directory / name for name in sorted(set(shards.values()))]
    raise ModelImportError(f"{directory} has no weights that can be used: {_what_there_is(directory)}")


def _what_there_is(directory: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        return (
            f"only pickles ({', '.join(pickles)}), which can run code when they are loaded; where you trust them, save "
            "the model again with transformers, `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)`"
        )
    ggufs = sorted(path.name for path in directory.glob("*.gguf"))
    if ggufs:
        return f"only GGUF; import the file {ggufs[0]} itself, `ftactors models import ID {directory / ggufs[0]}`"
    return f"neither {_WEIGHTS} nor {_INDEX} is there"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelImportError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelImportError(f"{path} must hold an object")
    return values
