"""The tokenizer of a base model, and what encoding needs to know of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ftactors.core.errors import UnsupportedModelError
from ftactors.core.events import ModelRef

_FILES = ("tokenizer_config.json", "tokenizer.json")


def load_tokenizer(base: ModelRef) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; an adapter that has none of its own has its base's.

    Raises:
        UnsupportedModelError: it has no tokenizer that can encode data: a fast one with an end-of-sequence token.
    """
    if base.base is not None and not any(_has(base, name) for name in _FILES):
        return load_tokenizer(base.base)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            base.path, revision=base.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(
            f"the tokenizer of {base.model_id!r} in {base.path} cannot be loaded: {error}"
        ) from error
    if not tokenizer.is_fast or len(tokenizer) == 0:
        raise UnsupportedModelError(
            f"{base.model_id!r} in {base.path} has no fast tokenizer; the offsets of tokens are needed to know answers",
            hint="put a tokenizer.json beside the model, as save_pretrained of a fast tokenizer writes it",
        )
    if tokenizer.eos_token is None:
        raise UnsupportedModelError(
            f"the tokenizer of {base.model_id!r} in {base.path} has no end-of-sequence token; answers would never end",
            hint="set eos_token in tokenizer_config.json",
        )
    return tokenizer


def _has(model: ModelRef, name: str) -> bool:
    """Return whether a model, in a directory or on the hub, has a file of this name.

    Raises:
        UnsupportedModelError: the hub cannot be asked.
    """
    if model.source == "directory" or Path(model.path).is_dir():
        return (Path(model.path) / name).is_file()
    try:
        hf_hub_download(model.path, name, revision=model.revision)
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError) or is_offline_mode():
            return False
        raise _not_fetched(name, model, error) from error
    except (OSError, ValueError) as error:
        raise _not_fetched(name, model, error) from error
    return True


def _not_fetched(name: str, model: ModelRef, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} of {model.path!r} cannot be fetched from the hub: {error}")


def pinned(base: ModelRef) -> ModelRef:
    """Return a model of the hub at the revision that its default branch has now; any other as it is."""
    if base.source != "hub":
        return base
    name = "adapter_config.json" if base.kind == "adapter" else "config.json"
    try:
        snapshot = Path(hf_hub_download(base.path, name, revision=base.revision)).parent
    except (OSError, ValueError) as error:
        raise _not_fetched(name, base, error) from error
    return base.model_copy(update={"revision": snapshot.name})


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer itself puts before a text: its begin-of-sequence token, or nothing."""
    ids = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    adds = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] != plain[:1]
    return [tokenizer.bos_token_id] if adds else []


def digest_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides which tokens a record becomes."""
    parts = (tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template), str(tokenizer.special_tokens_map))
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
