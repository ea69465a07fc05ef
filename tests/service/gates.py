"""A handler and a trainer that stop at gates, so that a test can act while a job is at a certain point, and no other.

A gate is a name, reached and opened by files in the job's own directory. `preparing` is the handler's, before its last
record. The trainer's are listed in the job's metadata: numbers of steps, and `publishing`, with the model on disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from ftactors.core.work import Published
from handlers.base import Record
from handlers.files import FilesHandler
from trainers.loop import Loop
from trainers.sft import SftTrainer

HANDLER, TRAINER = "tests.service.gates:GatedHandler", "tests.service.gates:GatedTrainer"
_LONGEST_S = 120.0


class GatedHandler(FilesHandler):
    """Gives all records but those of held-out data, once it is let."""

    def split_rows(self, name: str) -> Iterator[Record]:
        yield from super().split_rows(name)
        if name == "train":
            _pass("preparing")


class GatedTrainer(SftTrainer):
    """Trains as the one it is made from, with a rest at each gate."""

    def _prepare(self, *arguments: Any) -> Loop:
        loop = super()._prepare(*arguments)
        loop.add_callback(_StepGates(self._gates))
        return loop

    def _publish(self, *arguments: Any) -> Published:
        published = super()._publish(*arguments)
        if "publishing" in self._gates:
            _pass("publishing")
        return published

    @property
    def _gates(self) -> list[str]:
        return self.work.config.metadata.get("gates", "").split()


class _StepGates(TrainerCallback):
    """The gates at the ends of steps."""

    def __init__(self, gates: list[str]) -> None:
        self._gates = gates

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        if str(state.global_step) in self._gates:
            _pass(str(state.global_step))


def is_reached(run_dir: str, gate: str) -> bool:
    """Return whether an attempt of the job has come to a gate."""
    return _file(Path(run_dir), gate, "reached").exists()


def open_gate(run_dir: str, gate: str) -> None:
    """Let all attempts of the job through a gate, from now on."""
    _file(Path(run_dir), gate, "open").touch()


def _pass(gate: str) -> None:
    """Tell that this process has come to a gate, and return once it is open."""
    run_dir = Path.cwd().parents[1]  # this is attempts/<N> in it
    reached = _file(run_dir, gate, "reached")
    reached.parent.mkdir(exist_ok=True)
    reached.touch()
    deadline = time.monotonic() + _LONGEST_S
    while not _file(run_dir, gate, "open").exists():
        assert time.monotonic() < deadline, f"gate {gate} was never opened"
        time.sleep(0.02)


def _file(run_dir: Path, gate: str, what: str) -> Path:
    return run_dir / "gates" / f"{gate}.{what}"
