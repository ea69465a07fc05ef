"""Gates: names, reached by a job's process and opened by a test, by files in the job's own directory."""

from __future__ import annotations

from pathlib import Path


def is_reached(run_dir: str | Path, gate: str) -> bool:
    """Return whether an attempt of the job has come to a gate."""
    return _file(run_dir, gate, "reached").exists()


def open_gate(run_dir: str | Path, gate: str) -> None:
    """Let all attempts of the job through a gate, from now on."""
    file = _file(run_dir, gate, "open")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def reach(run_dir: str | Path, gate: str) -> None:
    """Tell that an attempt of the job has come to a gate."""
    file = _file(run_dir, gate, "reached")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def is_open(run_dir: str | Path, gate: str) -> bool:
    """Return whether the job may pass a gate."""
    return _file(run_dir, gate, "open").exists()


def _file(run_dir: str | Path, gate: str, what: str) -> Path:
    return Path(run_dir, "gates", f"{gate}.{what}")
