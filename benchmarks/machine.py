"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import psutil

_IN_MEMORY = {"tmpfs", "ramfs"}


def is_in_memory(directory: Path) -> bool:
    """Return whether what is written to a directory is on no disk."""
    return _file_system(directory) in _IN_MEMORY


def facts(directory: Path) -> str:
    """Return one sentence about the machine and the versions of what was compared."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("eventsourcing", "pydantic", "ray", "sqlalchemy"))
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    return (
        f"{os.cpu_count()} cores ({_processor()}), {_file_system(directory)}, {load}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}"
    )


def _file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory."""
    resolved = directory.resolve()
    holding = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    return max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else "an unknown file system"


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()
