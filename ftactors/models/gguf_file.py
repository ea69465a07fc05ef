"""GGUF files as base models: converted once, in a process of its own, for that loads torch."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from ftactors.core.errors import ModelImportError
from ftactors.models.own_process import command_of, environment

_MAGIC = b"GGUF"


def convert_gguf(source: Path, destination: Path) -> Path:
    """Write a GGUF file's model to `destination`, as bf16 safetensors, unless it is there, and return that directory.

    Raises:
        ModelImportError: the file is no GGUF or of an architecture that transformers does not read; or the package that
            reads GGUF is not installed.
    """
    _check(source)
    if destination.exists():  # it appears complete or not at all
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    command = command_of("trainers.import_gguf", str(source), str(destination))
    child = subprocess.run(  # noqa: S603 - our own module
        command, capture_output=True, text=True, errors="replace", check=False, env=environment()
    )
    if child.returncode != 0 and not destination.exists():  # another process may have been faster
        said = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise ModelImportError(f"{source} cannot be converted to safetensors: {said[-1]}")
    return destination


def _check(source: Path) -> None:
    try:
        with source.open("rb") as file:
            is_gguf = file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise ModelImportError(f"{source} cannot be read: {error.strerror}") from error
    if not is_gguf:
        raise ModelImportError(f"{source} is not a GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise ModelImportError(f"{source} needs the package that reads GGUF files: pip install gguf")
