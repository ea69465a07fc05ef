"""What a run has counted so far. It is kept in each checkpoint, so that a resumed run counts on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field

from ftactors.core.config import Metric
from trainers.durable import sizes_of

TALLY_FILE = "ftactors.json"
"""Its name within a checkpoint; written last."""


class Mean(BaseModel):
    """A mean of losses, weighted by tokens."""

    total: float = 0.0
    tokens: int = 0

    def add(self, total: float, tokens: int) -> None:
        """Count a sum over some more tokens."""
        self.total += total
        self.tokens += tokens

    def take(self) -> float:
        """Return the mean, and begin a new one."""
        value = self.value
        self.total, self.tokens = 0.0, 0
        return value

    @property
    def value(self) -> float:
        """The mean; 0 before anything was counted."""
        return self.total / max(self.tokens, 1)


class Best(BaseModel):
    """The best of the evaluations so far."""

    step: int
    value: float
    path: str | None = None
    """Its checkpoint, where there is one."""


class Tally(BaseModel):
    """The counts of a run, over all its attempts."""

    step: int = 0
    """Optimizer steps taken."""
    train: Mean = Field(default_factory=Mean)
    """All tokens trained on."""
    logged: Mean = Field(default_factory=Mean)
    """Those since the last log line."""
    best: Best | None = None
    evaluations_without_improvement: int = 0
    owes_evaluation: bool = False
    """Whether an evaluation is due at this step and has not been judged: a resumed run makes up for it first."""

    files: dict[str, int] = Field(default_factory=dict)
    """The sizes in bytes of all other files of the checkpoint."""

    def add(self, loss: float, tokens: int) -> None:
        """Count tokens trained on, and the sum of their losses."""
        self.train.add(loss, tokens)
        self.logged.add(loss, tokens)

    def save(self, checkpoint: Path) -> None:
        """Write the tally into a checkpoint."""
        self.files = sizes_of(checkpoint)
        (checkpoint / TALLY_FILE).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """Read the tally of a checkpoint."""
        return cls.model_validate_json((checkpoint / TALLY_FILE).read_bytes())


@dataclass(frozen=True, slots=True)
class Criterion:
    """What makes one evaluation better than another, and when to give up."""

    metric: Metric = "loss"
    patience: int | None = None
    """Evaluations without an improvement after which training ends."""
    threshold: float = 0.0
    """What counts as an improvement must be greater than this."""

    def judge(self, tally: Tally, step: int, value: float) -> bool:
        """Count an evaluation, and return whether it is the best so far."""
        gain = float("inf") if tally.best is None else self._gain(tally.best.value, value)
        if gain > self.threshold:
            tally.evaluations_without_improvement = 0
        else:
            tally.evaluations_without_improvement += 1
        if gain > 0:
            tally.best = Best(step=step, value=value)
        return gain > 0

    def gives_up(self, tally: Tally) -> bool:
        """Return whether training shall end."""
        return self.patience is not None and tally.evaluations_without_improvement >= self.patience

    def _gain(self, before: float, value: float) -> float:
        return value - before if self.metric == "token_accuracy" else before - value
