"""Trainers that try what a share of a GPU allows, and one that tells what it finds there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerState

from ftactors import FineTuningJobStatusInfo
from ftactors.core.session import Session
from ftactors.core.work import Work
from tests.service.gates import GatedTrainer
from trainers.loop import Loop
from trainers.sft import SftTrainer

AGGRESSOR, WITNESS = "tests.gpu.trainers:Aggressor", "tests.gpu.trainers:Witness"
_FOUND = "found.json"
_PIECES_OF_A_SHARE = 20
_LAST_STEP_BEFORE = 5


class Aggressor(GatedTrainer):
    """Fills its share after some steps, and then asks for as much again."""

    def _prepare(self, *arguments: Any) -> Loop:
        loop = super()._prepare(*arguments)
        loop.add_callback(_Aggression(self.work.gpu_thousandths))
        return loop


class _Aggression(TrainerCallback):
    def __init__(self, gpu_thousandths: int) -> None:
        _, total = torch.cuda.mem_get_info()
        self._piece = total * gpu_thousandths // 1000 // _PIECES_OF_A_SHARE
        self._taken: list[torch.Tensor] = []

    def on_step_begin(self, _: Any, state: TrainerState, *__: Any, **___: Any) -> None:
        if state.global_step == _LAST_STEP_BEFORE:
            for _piece in range(2 * _PIECES_OF_A_SHARE):
                self._taken.append(torch.zeros(self._piece, dtype=torch.uint8, device="cuda"))


class Witness(SftTrainer):
    """Writes down what CUDA is to its process before anything of ours has touched it, and trains."""

    def __init__(self, work: Work, session: Session) -> None:
        found: dict[str, Any] = {
            "parent": psutil.Process(os.getppid()).name(),
            "was_initialized": torch.cuda.is_initialized(),
            "was_forked_from_cuda": torch.cuda._is_in_bad_fork(),
        }
        torch.cuda.init()
        found |= {"fraction": torch.cuda.get_per_process_memory_fraction(0), "devices": torch.cuda.device_count()}
        super().__init__(work, session)
        found["computes_in"] = str(self._precision.amp_dtype)
        (Path(work.attempt_dir) / _FOUND).write_text(json.dumps(found))


def found_by(status: FineTuningJobStatusInfo) -> dict[str, Any]:
    """Return what the witness of a job's last attempt has written down."""
    found: dict[str, Any] = json.loads(_last_attempt(status).joinpath(_FOUND).read_text())
    return found


def losses(status: FineTuningJobStatusInfo) -> dict[int, float]:
    """Return the loss at each step that a job's last attempt wrote down."""
    lines = [json.loads(line) for line in _last_attempt(status).joinpath("metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _last_attempt(status: FineTuningJobStatusInfo) -> Path:
    return Path(status.run_dir) / "attempts" / str(status.attempt)
