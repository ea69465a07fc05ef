"""A trainer that trains nothing: it holds its share until its gate opens, and publishes its base. It loads no torch."""

from __future__ import annotations

import time
from pathlib import Path

from ftactors.core.work import Published, StageBegun, Stopped
from tests.service.gate_files import is_open, reach
from trainers.base import BaseTrainer

TRAINER, GATE = "tests.service.idle:IdleTrainer", "idle"


class IdleTrainer(BaseTrainer):
    """Waits at its gate, and stops at once when it is told to."""

    def run(self) -> Published | Stopped:
        run_dir = Path(self.work.attempt_dir).parents[1]
        self.session.say(StageBegun(stage="training", index=1, of=1, total_steps=1))
        reach(run_dir, f"{GATE}-{self.work.rank}")
        while not is_open(run_dir, GATE):
            if self.session.stop_order is not None:
                return Stopped(clean=True)
            time.sleep(0.02)
        base = self.work.base
        return Published(path=base.path, digest="none", kind="full", base=base, metrics={}, trained_tokens=1)
