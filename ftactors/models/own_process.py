"""Our modules that load torch, each in a process of its own: how they are called."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours; what lies in the working directory is not taken for it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return our environment, with the place of our packages on the search path, where they need not be installed."""
    here = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, here))}
