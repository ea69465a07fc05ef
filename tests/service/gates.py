"""A handler and a trainer that stop at gates, so that a test can act while a job is at a certain point, and no other.

A gate is a name, reached and opened by files in the job's own directory. `preparing` is the handler's, before its last
record. The trainer's are listed in the job's metadata: numbers of steps, and `publishing`, with the model on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from ftactors.core.session import Session
from ftactors.core.work import Published, Work
from handlers.base import Record
from handlers.files import FilesHandler
from tests.service.gate_files import is_open, is_reached, open_gate, reach
from trainers.loop import Loop
from trainers.sft import SftTrainer

__all__ = ["HANDLER", "SHARED", "TRAINER", "is_open", "is_reached", "open_gate"]

HANDLER, TRAINER = "tests.service.gates:GatedHandler", "tests.service.gates:GatedTrainer"
SHARED = "tests.service.gates:SharedTrainer"
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
        loop.add_callback(_StepGates(self._gates, self._is_let_go))
        return loop

    def _publish(self, *arguments: Any) -> Published:
        published = super()._publish(*arguments)
        if "publishing" in self._gates:
            _pass("publishing")
        return published

    def _is_let_go(self) -> bool:
        """Return whether it leaves a gate that is shut."""
        return False

    @property
    def _gates(self) -> list[str]:
        return self.work.config.metadata.get("gates", "").split()


class SharedTrainer(GatedTrainer):
    """Holds a share of a GPU, as Ray counts them, and trains on the CPU. An order to stop opens its gates."""

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work.model_copy(update={"uses_gpu": False}), session)

    def _is_let_go(self) -> bool:
        return self.session.stop_order is not None


class _StepGates(TrainerCallback):
    """The gates at the ends of steps."""

    def __init__(self, gates: list[str], is_let_go: Callable[[], bool]) -> None:
        self._gates, self._is_let_go = gates, is_let_go

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        if str(state.global_step) in self._gates:
            _pass(str(state.global_step), self._is_let_go)


def _pass(gate: str, is_let_go: Callable[[], bool] = lambda: False) -> None:
    """Tell that this process has come to a gate, and return once it is open, or the process is let go."""
    run_dir = Path.cwd().parents[1]  # this is attempts/<N> in it
    reach(run_dir, gate)
    deadline = time.monotonic() + _LONGEST_S
    while not (is_open(run_dir, gate) or is_let_go()):
        assert time.monotonic() < deadline, f"gate {gate} was never opened"
        time.sleep(0.02)
