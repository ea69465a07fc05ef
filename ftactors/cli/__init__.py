"""The `ftactors` command."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module

_COMMANDS = ("demo", "jobs", "control", "models", "log", "service")
"""The modules with commands, in the order of `ftactors --help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code.

    Args:
        arguments: Without the program's name; None: the process's own.
    """
    from ftactors.cli.app import app
    from ftactors.cli.edge import guarded

    for commands in _COMMANDS:
        import_module(f"ftactors.cli.{commands}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return guarded(lambda: int(app(arguments, prog_name="ftactors") or 0))
